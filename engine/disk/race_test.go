package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// swaps are what alice does in her home, over and over, each in a process of its own: she exchanges two names.
var swaps = map[string][2]string{
	"folder": {"home/.postgresql", "home/folder-link"},        // a folder with a link to root's folder
	"file":   {"home/.postgresql/key", "home/file-link"},      // a file with a link to root's file
	"fifo":   {"home/.postgresql/fifo", "home/.postgresql/f"}, // a file with a FIFO
	"made":   {"home/made", "home/roots"},                     // a folder just made for her with one that root keeps closed
}

// helperSwap exchanges the two names of DISK_SWAP below DISK_ROOT until it is killed.
func helperSwap() int {
	names := swaps[os.Getenv("DISK_SWAP")]
	a := filepath.Join(os.Getenv("DISK_ROOT"), names[0])
	b := filepath.Join(os.Getenv("DISK_ROOT"), names[1])
	for {
		unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		if os.Getenv("DISK_SWAP") == "fifo" && !isFIFO(a) && !isFIFO(b) {
			// The switch can replace her FIFO in the moment after it looked, and the race would be over: she makes another.
			os.Remove(a)
			unix.Mkfifo(a, 0o600)
		}
	}
}

func isFIFO(p string) bool {
	info, err := os.Lstat(p)
	return err == nil && info.Mode()&fs.ModeNamedPipe != 0
}

// A user swaps links, FIFOs and folders in his own home while root reads, writes, makes, gives away and removes there
// 20,000 times: nothing outside is ever read or changed.
func TestLiveSwapper(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tr := newTree(t)
	binary := tr.copyBinary()
	tr.tmpfs("fs", "size=64m") // fsync costs nothing here, and what is tried happens in the same kernel code
	tr.Disk.Close()
	tr = treeAt(t, tr.at("fs"))

	tr.dir("victim", 0o755, 0)
	tr.file("victim/key", "SECRET", 0o600, 0)
	tr.file("victim/f", "SECRET", 0o600, 0)
	tr.dir("home", 0o755, alice)
	tr.dir("home/.postgresql", 0o700, alice)
	tr.file("home/.postgresql/key", "hers", 0o600, alice)
	tr.file("home/.postgresql/f", "hers", 0o600, alice)
	check(t, unix.Mkfifo(tr.at("home/.postgresql/fifo"), 0o600))
	check(t, os.Chown(tr.at("home/.postgresql/fifo"), alice, alice))
	tr.link("../victim", "home/folder-link", alice)
	tr.link("../../victim/key", "home/file-link", alice)
	tr.dir("home/roots", 0o700, 0)
	tr.file("home/roots/private", "SECRET", 0o644, 0)
	roots, err := os.Stat(tr.at("home/roots"))
	check(t, err)
	snapshot := func() string {
		var all []string
		for _, p := range []string{"victim", "victim/key", "victim/f"} {
			var st unix.Stat_t
			check(t, unix.Stat(tr.at(p), &st))
			content, _ := os.ReadFile(tr.at(p))
			names, _ := os.ReadDir(tr.at(p))
			all = append(all, fmt.Sprintf("%s %+v %q", p, infoOf(&st), content))
			for _, n := range names {
				all = append(all, n.Name())
			}
		}
		return strings.Join(all, " ")
	}
	before := snapshot()
	for name := range swaps {
		cmd := helperCommand(binary, "swap", "DISK_SWAP="+name, "DISK_ROOT="+tr.root)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: alice, Gid: alice}, Pdeathsig: syscall.SIGKILL,
		}
		check(t, cmd.Start())
		defer func(cmd *exec.Cmd) { cmd.Process.Kill(); cmd.Wait() }(cmd)
	}
	count := map[string]int{}
	note := func(what string, err error) {
		switch {
		case err == nil:
			count[what+" done"]++
		case errors.Is(err, ErrUntrustedLink):
			count[what+" link"]++
		case errors.Is(err, ErrKind):
			count[what+" kind"]++
		case errors.Is(err, ErrChanged), errors.Is(err, ErrInUse), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist):
			count[what+" changed"]++
		default:
			count[what+" other"]++
			t.Logf("%s: %v", what, err)
		}
	}
	const tries = 20_000
	for i := range tries {
		key := []string{"/home/.postgresql/key", "/home/.postgresql/f"}[i%2]
		content, info, err := tr.ReadFile(key, 100)
		note("read", err)
		if strings.Contains(string(content), "SECRET") {
			t.Fatal("root's file was read as hers")
		}
		seen := BeforeOf(content, info)
		if errors.Is(err, fs.ErrNotExist) {
			seen = Before{}
		}
		s, err := tr.Stage(File{Path: key, Content: []byte("ROOT"), Mode: 0o600, UID: alice, GID: alice, Secret: i%3 == 0, Temp: prefix + "r"})
		note("stage", err)
		if err == nil {
			note("switch", s.Switch(seen))
		}
		if info, err := tr.Stat(key); err == nil {
			note("setattr", tr.SetAttr(key, info, 0o640, alice, alice))
		}
		if i%4 == 0 {
			note("mkdir", tr.Mkdir("/home/made", 0o700, alice, alice))
			tr.RemoveDir("/home/made")
			note("remove", tr.Remove(key, tr.quiet(key)))
			note("temps", tr.RemoveTemps("/home/.postgresql", prefix))
		}
	}
	if after := snapshot(); after != before {
		t.Errorf("an escape:\n%s\n%s", before, after)
	}
	for _, p := range []string{"home/roots", "home/made"} {
		if info, err := os.Stat(tr.at(p)); err == nil && os.SameFile(info, roots) {
			if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 || info.Mode().Perm() != 0o700 {
				t.Errorf("root's closed folder was given away: %+v", info)
			}
		}
	}
	t.Logf("%d rounds: %v", tries, count)
	for _, what := range []string{"read done", "read link", "read kind", "stage done", "stage link", "switch done", "switch changed", "setattr done",
		"mkdir done", "mkdir changed", "remove done", "remove link", "temps done"} {
		if count[what] == 0 {
			t.Errorf("%q never happened: the race is no race", what)
		}
	}
}

// quiet is the Before of what stands at p, when it can be read.
func (tr tree) quiet(p string) Before {
	content, info, err := tr.ReadFile(p, 100)
	if err != nil {
		return Before{Exists: true}
	}
	return BeforeOf(content, info)
}
