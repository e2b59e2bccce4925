package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCalendarOfAnInterval(t *testing.T) {
	for every, want := range map[time.Duration]string{
		5 * time.Minute:  "*-*-* *:00/5:00",
		30 * time.Minute: "*-*-* *:00/30:00",
		time.Hour:        "*-*-* *:00:00",
		6 * time.Hour:    "*-*-* 00/6:00:00",
		24 * time.Hour:   "*-*-* 00:00:00",
		7 * time.Minute:  "", 90 * time.Minute: "", 5 * time.Hour: "", 48 * time.Hour: "", 30 * time.Second: "", 0: "", -time.Hour: "",
	} {
		got, err := calendarOf(every)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s is %q (%v), want %q", every, got, err, want)
		}
		if analyze, lookErr := exec.LookPath("systemd-analyze"); lookErr == nil && want != "" {
			if out, err := exec.Command(analyze, "calendar", got).CombinedOutput(); err != nil {
				t.Errorf("systemd does not read %q: %s", got, out)
			}
		}
	}
}

func TestUnitWords(t *testing.T) {
	for word, want := range map[string]string{
		"--role=app":       "--role=app",
		"--var=a=b c":      `"--var=a=b c"`,
		`--var=q="x"`:      `"--var=q=\"x\""`,
		"--var=p=100%":     "--var=p=100%%",
		"--var=d=$HOME":    "--var=d=$$HOME",
		`--var=w=a\b`:      `"--var=w=a\\b"`,
		"--var=n=a\nb":     `"--var=n=a\nb"`,
		"--var=s=a;reboot": `"--var=s=a;reboot"`,
		"":                 `""`,
	} {
		if got := unitWord(word); got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
	}
}

// systemd's own checker has nothing to say of the units.
func TestUnitsVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here")
	}
	program := filepath.Join(t.TempDir(), "converge")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	calendar, err := calendarOf(defaultEvery)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	units := map[string]string{
		serviceUnit: serviceText([]string{program, "apply", "--environment=/etc/my site/environment.hcl", "--var=share=50%", "--var=home=$HOME"}),
		timerUnit:   timerText(calendar, timerFlags{every: defaultEvery, splay: defaultSplay}),
	}
	args := []string{"verify", "--man=no"}
	for name, text := range units {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) || strings.Contains(string(out), "converge") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
