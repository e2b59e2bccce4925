package postgres

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// apart runs work on a thread of its own that ends with it, so that what work changes about its thread (the mounts that it
// sees) changes nothing for the rest of the program. Children that work starts see what it sees.
func apart(work func() error) error {
	type end struct {
		err   error
		panic any
	}
	done := make(chan end)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is thrown away
		var e end
		defer func() {
			e.panic = recover()
			done <- e
		}()
		e.err = work()
	}()
	e := <-done
	if e.panic != nil {
		panic(e.panic)
	}
	return e.err
}

// hiddenPlace gives a folder in memory that only this thread and its children see: a plan leaves no trace on the machine,
// not even for a moment, and neither does a run that is killed. Where the kernel does not allow it (in a container, say),
// it is /tmp.
func hiddenPlace(s *Server) string {
	const usual = "/tmp"
	place := ""
	for _, p := range []string{usual, "/media", "/mnt", "/srv", "/opt"} {
		if info, err := os.Stat(p); err == nil && info.IsDir() && !s.uses(p) {
			place = p
			break
		}
	}
	if place == "" || os.Geteuid() != 0 || unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS) != nil {
		return usual
	}
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil {
		return usual
	}
	if unix.Mount("tmpfs", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=32m,mode=0755") != nil {
		return usual
	}
	return place
}

// uses says whether something of the server lies in a folder, which therefore must stay in sight.
func (s *Server) uses(dir string) bool {
	for _, p := range []string{s.DataDirectory, s.ConfigFile, s.HBAFile, s.IdentFile, s.BinDirectory, s.SSLDirectory, s.SocketDirectory} {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}
