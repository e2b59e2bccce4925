package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// helperPair reads a certificate and then its key, as libpq does, over and over, and prints how often it did and how often
// the two did not match, until DISK_ROOT/stop is there.
func helperPair() int {
	root := os.Getenv("DISK_ROOT")
	rounds, mismatches := 0, 0
	for {
		if _, err := os.Stat(filepath.Join(root, "stop")); err == nil {
			fmt.Println(rounds, mismatches)
			return 0
		}
		cert, err := os.ReadFile(filepath.Join(root, "cert"))
		time.Sleep(time.Millisecond)
		key, err2 := os.ReadFile(filepath.Join(root, "key"))
		if err != nil || err2 != nil {
			fmt.Println(err, err2)
			return 1
		}
		rounds++
		if string(cert) != "cert "+string(key) {
			mismatches++
		}
	}
}

// A client that reads the certificate and then the key never gets the two of different pairs, while one pair takes the place
// of the other again and again.
func TestReadersOfAPair(t *testing.T) {
	tr := newTree(t)
	binary := tr.copyBinary()
	put := func(n int) {
		var all []*Staged
		var before []Before
		for _, f := range []File{
			{Path: "/cert", Content: fmt.Appendf(nil, "cert %d", n), Mode: 0o644, Temp: ".converge-c"},
			{Path: "/key", Content: fmt.Appendf(nil, "%d", n), Mode: 0o600, Secret: true, Temp: ".converge-k"},
		} {
			f.UID, f.GID = os.Geteuid(), os.Getegid()
			b := Before{}
			if n > 0 {
				content, info, err := tr.ReadFile(f.Path, 100)
				check(t, err)
				b = BeforeOf(content, info)
			}
			s, err := tr.Stage(f)
			check(t, err)
			all, before = append(all, s), append(before, b)
		}
		check(t, SwitchTogether(all, before))
	}
	put(0)
	var outs []*strings.Builder
	var waits []func() error
	for range 3 {
		cmd := helperCommand(binary, "pair", "DISK_ROOT="+tr.root)
		out := &strings.Builder{}
		cmd.Stdout = out
		check(t, cmd.Start())
		outs, waits = append(outs, out), append(waits, cmd.Wait)
	}
	const times = 20
	for n := range times {
		put(n + 1)
	}
	check(t, os.WriteFile(tr.at("stop"), nil, 0o600))
	for i, wait := range waits {
		check(t, wait())
		var rounds, mismatches int
		if _, err := fmt.Sscan(outs[i].String(), &rounds, &mismatches); err != nil || rounds < times {
			t.Fatalf("a reader says %q", outs[i])
		}
		t.Logf("%d times read while %d pairs came: %d mismatches", rounds, times, mismatches)
		if mismatches > 0 {
			t.Errorf("%d mismatches", mismatches)
		}
	}
}
