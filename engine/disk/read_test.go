package disk

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// special makes one of each that is no regular file, and returns the paths with the words for it.
func (tr tree) special() map[string]string {
	tr.t.Helper()
	check(tr.t, unix.Mkfifo(tr.at("fifo"), 0o600))
	check(tr.t, unix.Mknod(tr.at("zero"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
	check(tr.t, unix.Mknod(tr.at("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))))
	l, err := net.Listen("unix", tr.at("socket"))
	check(tr.t, err)
	tr.t.Cleanup(func() { l.Close() })
	tr.dir("folder", 0o755, 0)
	return map[string]string{
		"/fifo": "named pipe", "/zero": "device", "/block": "device", "/socket": "socket", "/folder": "directory",
	}
}

func TestReadFileRefuses(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	for p, kind := range tr.special() {
		start := time.Now()
		_, _, err := tr.ReadFile(p, 1<<20)
		wantError(t, err, ErrKind, "read "+p, "it is a "+kind)
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s took %v", p, took)
		}
	}
	tr.file("big", "0123456789", 0o600, 0)
	_, _, err := tr.ReadFile("/big", 9)
	wantError(t, err, ErrTooLarge, "larger than 9 bytes")
	if b, info, err := tr.ReadFile("/big", 10); string(b) != "0123456789" || info.Size != 10 || err != nil {
		t.Errorf("%q %+v %v", b, info, err)
	}
	tr.file("empty", "", 0o600, 0)
	if b, _, err := tr.ReadFile("/empty", 0); len(b) != 0 || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

func TestReadFileOfProc(t *testing.T) {
	d, err := Open("/")
	check(t, err)
	defer d.Close()
	want, err := os.ReadFile("/proc/version")
	check(t, err)
	if b, _, err := d.ReadFile("/proc/version", 1<<20); !bytes.Equal(b, want) || err != nil {
		t.Errorf("%q %v", b, err)
	}
	_, _, err = d.ReadFile("/proc/version", 10)
	wantError(t, err, ErrTooLarge)
}

// A second name for root's own file, in a folder where a user can put names, is not read: its content would come
// out as that of her file. Where only root puts names it is read like any other.
func TestReadFileHardLinked(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("shadow", "secret", 0o600, 0)
	tr.dir("home", 0o755, alice)
	check(t, os.Link(tr.at("shadow"), tr.at("home/key")))
	_, _, err := tr.ReadFile("/home/key", 100)
	wantError(t, err, ErrHardLinked, "2 names")
	if b, _, err := tr.ReadFile("/shadow", 100); string(b) != "secret" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

// A file that is written to while it is read is read again, and refused when that does not end. strace makes each read
// of it take a tenth of a second.
func TestReadFileRacesWriter(t *testing.T) {
	needRoot(t)
	slow := []string{"-e", "trace=read", "-e", "inject=read:delay_enter=100000"}
	for _, c := range []struct {
		name   string
		writes int
		says   string
	}{
		{"no end", 1 << 20, "read /f: is being written by another process; try again"},
		{"once", 1, ""},
	} {
		tr := newTree(t)
		tr.file("f", "old", 0o600, alice)
		done := make(chan bool)
		go func() {
			defer close(done)
			f, err := os.OpenFile(tr.at("f"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return
			}
			defer f.Close()
			for range c.writes {
				time.Sleep(20 * time.Millisecond)
				if _, err := os.Stat(tr.at("stop")); err == nil {
					return
				}
				f.WriteString("x")
			}
		}()
		trace, stderr, err := tr.traced("/f", "new", append(slow, "-P", tr.at("f"))...)
		tr.file("stop", "", 0o600, 0)
		<-done
		if !strings.Contains(trace, "DELAYED") {
			t.Errorf("%s: no read was slowed down", c.name)
		}
		if (err == nil) != (c.says == "") || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: %v %q, want %q", c.name, err, stderr, c.says)
		}
		if err == nil {
			tr.wants("f", "new", 0o600, alice)
		}
	}
}

// A process that holds a lease on its file does not hold us up (fcntl(2), F_SETLEASE).
func TestReadFileLeased(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file("f", "x", 0o600, 0)
	f, err := os.OpenFile(tr.at("f"), os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("this file system knows no leases: %v", err)
	}
	start := time.Now()
	_, _, err = tr.ReadFile("/f", 100)
	wantError(t, err, ErrInUse)
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}
