package disk

import (
	"time"

	"golang.org/x/sys/unix"
)

// A hold keeps others from opening a file for a moment. The zero hold holds nobody.
type hold struct {
	fd int // the file that is about to be replaced, with a lease on it; -1: none
}

// grace is how long somebody who has read the first file has for reading the next one. libpq and PostgreSQL take less than
// a millisecond for that, when they get a processor.
const grace = 250 * time.Millisecond

// holdReaders takes a lease on the first of the files that stand there, and waits until who has read it has read the others,
// too. Who comes to open it waits meanwhile, and then reads the new content (fcntl(2), Leases). It is done where a secret is
// replaced together with what is read before it: a client that has read a certificate, and then finds another key, would
// fail. Where a file system has no leases, or somebody has the file open all the time, nobody is held.
func holdReaders(all []*Staged, before []Before) hold {
	if len(all) < 2 || !before[0].Exists || before[0].Link != "" || !replacesSecret(all[1:], before[1:]) {
		return hold{-1}
	}
	first := all[0].at
	fd, err := again(func() (int, error) {
		return unix.Openat(first.dir, first.name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return hold{-1}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err != nil || st.Ino != first.st.Ino || st.Dev != first.st.Dev {
		unix.Close(fd) // it is not the file that was compared
		return hold{-1}
	}
	for range 50 {
		if _, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != unix.EAGAIN {
			break
		}
		time.Sleep(2 * time.Millisecond) // somebody reads it just now
	}
	if err != nil {
		unix.Close(fd)
		return hold{-1}
	}
	time.Sleep(grace)
	return hold{fd}
}

// replacesSecret says whether one of the files takes the place of a secret with another content.
func replacesSecret(all []*Staged, before []Before) bool {
	for i, s := range all {
		if s.secret && before[i].Exists && string(before[i].Content) != string(s.content) {
			return true
		}
	}
	return false
}

// unchanged says whether a target is still what it was when it was compared, before readers were held.
func (h hold) unchanged(s *Staged) error {
	if h.fd < 0 {
		return nil
	}
	was, existed := s.at.st, s.at.exists
	if err := s.at.look(); err != nil {
		return s.at.fail("write", err)
	}
	now := s.at.st
	if s.at.exists != existed || existed && (now.Ino != was.Ino || now.Ctim != was.Ctim || now.Size != was.Size) {
		return s.at.changed("write", "it is another one than a moment ago")
	}
	return nil
}

// letGo ends the hold. Who waits has the old file in hand, which has no name any more: it is given the new content.
func (h hold) letGo(content []byte) {
	if h.fd < 0 {
		return
	}
	defer unix.Close(h.fd)
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err == nil && st.Nlink == 0 {
		if _, err := unix.Pwrite(h.fd, content, 0); err == nil {
			unix.Ftruncate(h.fd, int64(len(content)))
		}
	}
	unix.FcntlInt(uintptr(h.fd), unix.F_SETLEASE, unix.F_UNLCK)
}
