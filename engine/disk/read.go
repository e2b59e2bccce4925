package disk

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// readTries is how often a file that changes under our eyes is read again; the waits grow from 1 to 16 ms.
const readTries = 6

// errRaced: the file was not the same before and after it was read.
var errRaced = errors.New("the file changed while it was read")

// ReadFile returns the content of a file and the state that it was read in. It follows trusted links only.
//
// Only a regular file is read: a FIFO, socket, device or folder is ErrKind, at once. More than limit bytes is ErrTooLarge.
// A file that changes between the first look and the last is read again, and after some tries refused with ErrInUse,
// so that half of what someone is writing is not taken for the whole. (Someone who stops half way looks like someone who is
// done; Switch compares again before it replaces anything.) A file with other names, in a folder where someone
// other than root can put names, is ErrHardLinked: it may be a name for root's own secrets.
func (d *Disk) ReadFile(path string, limit int64) ([]byte, Info, error) {
	for try := range readTries {
		if try > 0 {
			time.Sleep(time.Millisecond << (try - 1))
		}
		content, info, err := d.readOnce(path, limit)
		if err != errRaced {
			return content, info, err
		}
	}
	return nil, Info{}, &Error{Op: "read", Path: path, Err: ErrInUse, Remedy: "try again when that is done"}
}

func (d *Disk) readOnce(path string, limit int64) ([]byte, Info, error) {
	p, err := d.find("read", path, true)
	if err != nil {
		return nil, Info{}, err
	}
	defer p.close()
	return p.read("read", limit)
}

// read reads the file at the place; errRaced, bare, when it changed meanwhile.
func (p *place) read(op string, limit int64) ([]byte, Info, error) {
	if err := p.readable(op); err != nil {
		return nil, Info{}, err
	}
	fd, err := p.openSame(op)
	if err != nil {
		return nil, Info{}, err
	}
	defer unix.Close(fd)
	if p.st.Size > limit {
		return nil, Info{}, p.tooLarge(op, limit)
	}
	content, err := readAll(fd, p.st.Size, limit)
	if err != nil {
		return nil, Info{}, p.fail(op, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, Info{}, p.fail(op, err)
	}
	if identOf(&st) != identOf(&p.st) {
		return nil, Info{}, errRaced
	}
	if int64(len(content)) > limit {
		return nil, Info{}, p.tooLarge(op, limit)
	}
	return content, infoOf(&st), nil
}

// readable refuses what must not be opened for reading.
func (p *place) readable(op string) error {
	switch {
	case !p.exists:
		return p.fail(op, unix.ENOENT)
	case p.kind() != Regular:
		return p.wrongKind(op, Regular)
	case p.st.Nlink > 1 && p.foreign():
		return p.hardLinked(op)
	}
	return nil
}

// openSame opens the file that was found at the place for reading; errRaced when another one stands there by now.
// What a user can put there between the look and the open (a link, a FIFO, a socket, a folder) neither blocks nor acts.
func (p *place) openSame(op string) (int, error) {
	fd, err := openIn(p.dir, p.name, unix.O_RDONLY)
	switch err {
	case nil:
	case unix.ELOOP, unix.ENXIO, unix.ENOENT:
		return -1, errRaced
	case unix.EAGAIN: // fcntl(2), F_SETLEASE: another process holds a lease and is being told to give it up
		return -1, errRaced
	default:
		return -1, p.fail(op, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, p.fail(op, err)
	}
	if identOf(&st) != identOf(&p.st) {
		unix.Close(fd)
		return -1, errRaced
	}
	return fd, nil
}

// readAll reads to the end, or to one byte more than there should be: size, or limit where size says nothing (/proc says 0
// and means more). A file that grows as fast as it is read has an end here too.
func readAll(fd int, size, limit int64) ([]byte, error) {
	if size > 0 {
		limit = size
	}
	buf := make([]byte, 0, min(size, limit)+1)
	for int64(len(buf)) <= limit {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := again(func() (int, error) { return unix.Read(fd, buf[len(buf):cap(buf)]) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		buf = buf[:len(buf)+n]
	}
	return buf, nil
}

func (p *place) tooLarge(op string, limit int64) error {
	return &Error{Op: op, Path: p.asked, Real: p.real, Err: ErrTooLarge,
		Cause: fmt.Sprintf("the file is larger than %d bytes, the most that is read here", limit)}
}
