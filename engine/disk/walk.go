package disk

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one path may lead through; the kernel's own limit (path_resolution(7)).
const maxLinks = 40

// A place is where a path leads: a name in a folder that is held by its descriptor, with what stood there when it was
// found. Whatever happens to the path afterwards, work done through dir and name stays in that folder.
type place struct {
	dir    int // O_PATH descriptor of the folder; the place owns it
	name   string
	asked  string // the path as it was asked for
	real   string // the path without links, inside the root
	exists bool
	st     unix.Stat_t // of the name itself, not of what a link leads to; zero when nothing is there
	doubt  doubt       // who besides root could have put the entry here; only worked out when judged
	judged bool
	linked bool // the last part of the path asked for is a symbolic link that was followed
}

func (p *place) close() { unix.Close(p.dir) }

// foreign says that someone besides root could have put the entry here, as far as is known.
func (p *place) foreign() bool { return !p.judged || !p.doubt.none() }

func (p *place) kind() Kind { return kindOf(p.st.Mode) }

// look fills in what stands at the place now.
func (p *place) look() error {
	p.st = unix.Stat_t{}
	err := unix.Fstatat(p.dir, p.name, &p.st, unix.AT_SYMLINK_NOFOLLOW)
	p.exists = err == nil
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// find walks to path. It follows trusted links on the way, and with last also in the last part. It fails when a folder
// on the way is missing; that the last part is missing is no failure, exists then says so.
//
// The usual path has no link at all, and one openat2 with RESOLVE_NO_SYMLINKS finds its folder. Anything else (a link,
// a "..", a kernel before 5.6, a sandbox without openat2) is left to walk, which goes by the same rules one part at a
// time. The short way never says yes where walk would say no: without links there is nothing to distrust.
func (d *Disk) find(op, asked string, last bool) (*place, error) {
	parts, err := split(asked)
	if err != nil {
		return nil, &Error{Op: op, Path: asked, Err: err}
	}
	if p := d.findPlain(asked, parts); p != nil {
		if !p.needsJudging(last) {
			return p, nil
		}
		p.close()
	}
	return d.walk(op, asked, parts, last)
}

// findPlain returns the place of a path without links, or nil for walk to find it or to say why not.
func (d *Disk) findPlain(asked string, parts []string) *place {
	folder, name := ".", "."
	if n := len(parts); n > 0 {
		name = parts[n-1]
		if n > 1 {
			folder = strings.Join(parts[:n-1], "/")
		}
	}
	for _, part := range parts {
		if part == ".." {
			return nil
		}
	}
	fd, err := again(func() (int, error) {
		return unix.Openat2(d.root.fd, folder, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_IN_ROOT,
		})
	})
	if err != nil {
		return nil
	}
	p := &place{dir: fd, name: name, asked: asked, real: "/" + strings.Join(parts, "/")}
	if err := p.look(); err != nil {
		p.close()
		return nil
	}
	return p
}

// needsJudging says that it matters who could have put the entry here, which only walk finds out: a link that would be
// followed, a file that has another name somewhere else.
func (p *place) needsJudging(last bool) bool {
	switch p.kind() {
	case Symlink:
		return last
	case Regular:
		return p.st.Nlink > 1
	}
	return false
}

// split takes an absolute path apart. Empty parts and "." mean nothing; ".." is kept, because after a link it leads
// elsewhere than its text says.
func split(p string) ([]string, error) {
	if !strings.HasPrefix(p, "/") {
		return nil, errors.New("the path is not absolute")
	}
	if strings.ContainsRune(p, 0) {
		return nil, errors.New("the path contains a NUL byte")
	}
	var parts []string
	for part := range strings.SplitSeq(p, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// A level is one folder on the way from the root.
type level struct {
	fd    int
	name  string
	mode  uint32
	gid   uint32
	doubt doubt // who besides root could have put this folder here, or owns it
}

// entry says who besides root could have put an entry that belongs to uid into this folder. In a sticky folder (/tmp)
// others can add entries but not rename or remove root's, so root's entry there is root's doing.
func (l level) entry(uid uint32) doubt {
	switch shared := l.mode&unix.S_ISVTX == 0; {
	case l.doubt != doubt{}:
		return l.doubt
	case shared && l.mode&0o002 != 0:
		return doubt{who: anyone}
	case shared && l.mode&0o020 != 0:
		return doubt{who: aGroup, id: l.gid}
	}
	return ownerDoubt(uid)
}

// A walker goes from the root to a path, one folder descriptor at a time.
type walker struct {
	op    string
	asked string
	way   []level // from the root to where it stands; the root's descriptor belongs to the Disk
	links int
}

// walk finds the place of a path part by part, with openat(O_PATH|O_NOFOLLOW), judging each link before it follows it.
// ".." goes back to the folder that it came through, which is held open, so that a folder moved meanwhile leads nowhere else.
func (d *Disk) walk(op, asked string, todo []string, last bool) (*place, error) {
	w := &walker{op: op, asked: asked, way: []level{d.root}}
	defer w.close()
	linked := false
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			w.up(1)
			continue
		}
		fd, st, err := w.open(part)
		final := len(todo) == 0
		switch {
		case err == unix.ENOENT && final:
			return w.place(part, st, linked)
		case err == unix.ENOENT:
			return nil, &Error{Op: op, Path: asked, Err: err, Cause: fmt.Sprintf("the folder %q does not exist", w.real(part))}
		case err != nil:
			return nil, w.fail(part, err)
		case kindOf(st.Mode) == Symlink && (last || !final):
			rest, err := w.follow(fd, part, st)
			unix.Close(fd)
			if err != nil {
				return nil, err
			}
			linked = linked || final
			todo = append(rest, todo...)
		case final:
			unix.Close(fd)
			return w.place(part, st, linked)
		case kindOf(st.Mode) != Dir:
			unix.Close(fd)
			return nil, &Error{Op: op, Path: asked, Err: unix.ENOTDIR,
				Cause: fmt.Sprintf("%q is %s, not a directory", w.real(part), kindOf(st.Mode))}
		default:
			w.down(fd, part, st)
		}
	}
	return w.stay(linked)
}

// open opens an entry of the folder where the walker stands, as a mere handle: nothing acts, nothing blocks.
func (w *walker) open(part string) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := openIn(w.top().fd, part, unix.O_PATH)
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// follow returns the parts that the link at fd stands for, and goes to the root when they begin there. Owner, folder and
// text are read from the same inode, so that they cannot be those of two links.
func (w *walker) follow(fd int, part string, st unix.Stat_t) ([]string, error) {
	if doubt := w.top().entry(st.Uid); !doubt.none() {
		return nil, w.fail(part, &untrustedLink{path: w.real(part), doubt: doubt})
	}
	if w.links++; w.links > maxLinks {
		return nil, w.fail(part, unix.ELOOP)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return nil, w.fail(part, err)
	}
	text := string(buf[:n])
	if strings.HasPrefix(text, "/") {
		w.up(len(w.way) - 1)
	}
	return split("/" + text)
}

func (w *walker) top() level { return w.way[len(w.way)-1] }

func (w *walker) down(fd int, part string, st unix.Stat_t) {
	doubt := w.top().entry(st.Uid)
	w.way = append(w.way, level{fd: fd, name: part, mode: st.Mode, gid: st.Gid, doubt: doubt})
}

// up goes back n folders, and stops at the root.
func (w *walker) up(n int) {
	for ; n > 0 && len(w.way) > 1; n-- {
		unix.Close(w.top().fd)
		w.way = w.way[:len(w.way)-1]
	}
}

func (w *walker) close() { w.up(len(w.way)) }

// place ends the walk at an entry of the folder where it stands. st is zero when there is no such entry.
func (w *walker) place(name string, st unix.Stat_t, linked bool) (*place, error) {
	p := &place{name: name, asked: w.asked, real: w.real(name), judged: true, linked: linked,
		exists: st.Mode != 0, st: st, doubt: w.top().entry(st.Uid)}
	if !p.exists {
		p.doubt = w.top().entry(0)
	}
	var err error
	p.dir, err = openIn(w.top().fd, ".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, w.fail(name, err)
	}
	return p, nil
}

// stay ends the walk at the folder where it stands: the path is the root, or ended in "..".
func (w *walker) stay(linked bool) (*place, error) {
	var st unix.Stat_t
	if err := unix.Fstat(w.top().fd, &st); err != nil {
		return nil, w.fail(".", err)
	}
	return w.place(".", st, linked)
}

// real is the path of an entry of the folder where the walker stands, without links.
func (w *walker) real(part string) string {
	names := []string{"/"}
	for _, l := range w.way[1:] {
		names = append(names, l.name)
	}
	return path.Join(append(names, part)...)
}

func (w *walker) fail(part string, err error) error {
	p := place{dir: w.top().fd, name: part, asked: w.asked, real: w.real(part)}
	return p.fail(w.op, err)
}

// A doubt says who besides root could have put an entry where it is; the zero doubt is none.
type doubt struct {
	who suspect
	id  uint32 // the UID or GID
}

type suspect int

const (
	nobody suspect = iota
	aUser
	aGroup
	anyone
)

func (d doubt) none() bool { return d.who == nobody }

// ownerDoubt doubts every owner but root and, when the program does not run as root, the user that it runs as.
func ownerDoubt(uid uint32) doubt {
	if uid == 0 || int(uid) == os.Geteuid() {
		return doubt{}
	}
	return doubt{who: aUser, id: uid}
}

// String names the suspect for a message. The names are this machine's, also when the Disk's root is another tree.
func (d doubt) String() string {
	id := strconv.FormatUint(uint64(d.id), 10)
	switch d.who {
	case aUser:
		if u, err := user.LookupId(id); err == nil {
			return fmt.Sprintf("user %q", u.Username)
		}
		return "user with UID " + id
	case aGroup:
		if g, err := user.LookupGroupId(id); err == nil {
			return fmt.Sprintf("a member of group %q", g.Name)
		}
		return "a member of the group with GID " + id
	case anyone:
		return "any user"
	}
	return "root"
}
