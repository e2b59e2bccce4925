package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helper is what this binary does as another process.
func helper(role string) int {
	d, err := OpenDir(os.Getenv("STORE_DIR"))
	if err == nil {
		err = map[string]func(*Dir) error{"create": helperCreate, "count": helperCount, "write": helperWrite, "once": helperOnce, "init": helperInit}[role](d)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// helperCreate creates the keys of all races and prints those that it won.
func helperCreate(d *Dir) error {
	for round := range races {
		_, err := d.Create(context.Background(), fmt.Sprintf("race/%d", round), []byte(os.Getenv("STORE_NAME")))
		won, err := lost(err, ErrExists)
		if err != nil {
			return err
		}
		if won {
			fmt.Println(round)
		}
	}
	return nil
}

func helperCount(d *Dir) error {
	n, err := strconv.Atoi(os.Getenv("STORE_COUNT"))
	if err != nil {
		return err
	}
	versions, err := count(context.Background(), d, "counter", n)
	for _, v := range versions {
		fmt.Println(v)
	}
	return err
}

// sealed is a value that shows when a byte of it is missing or another.
func sealed(n int) []byte {
	body := bytes.Repeat([]byte{byte(n)}, n)
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

func isSealed(value []byte) bool {
	if len(value) < sha256.Size {
		return false
	}
	sum := sha256.Sum256(value[:len(value)-sha256.Size])
	return bytes.Equal(sum[:], value[len(value)-sha256.Size:])
}

// helperWrite writes until it is killed.
func helperWrite(d *Dir) error {
	ctx := context.Background()
	for {
		e, err := d.Get(ctx, "killed/one")
		switch {
		case errors.Is(err, ErrNotFound):
			_, err = d.Create(ctx, "killed/one", sealed(1000))
		case err == nil:
			_, err = d.Swap(ctx, "killed/one", e.Version, sealed(rand.IntN(300_000)))
		}
		if err != nil && !errors.Is(err, ErrChanged) && !errors.Is(err, ErrExists) {
			return err
		}
		fmt.Println("written")
	}
}

// helperOnce writes one version more.
func helperOnce(d *Dir) error {
	ctx := context.Background()
	e, err := d.Get(ctx, "killed/one")
	if errors.Is(err, ErrNotFound) {
		_, err = d.Create(ctx, "killed/one", sealed(1))
		return err
	}
	if err == nil {
		_, err = d.Swap(ctx, "killed/one", e.Version, sealed(int(e.Version)+1))
	}
	return err
}

func helperInit(d *Dir) error { return d.Init(context.Background()) }

// newDir makes a store in memory, where there is room, which takes a tenth of the time.
func newDir(t testing.TB) *Dir {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err == nil && fs.Bavail*uint64(fs.Bsize) > 1<<29 {
		return newDirBelow(t, "/dev/shm")
	}
	return newDirBelow(t, "")
}

// newDirOnDisk makes a store on a disk. What is synced takes its time there.
func newDirOnDisk(t testing.TB) *Dir { return newDirBelow(t, "") }

// newDirBelow makes a store in a folder below one that other users can reach.
func newDirBelow(t testing.TB, where string) *Dir {
	t.Helper()
	root, err := os.MkdirTemp(where, "store")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(root) })
	check(t, os.Chmod(root, 0o755))
	return initDir(t, filepath.Join(root, "converge"))
}

func initDir(t testing.TB, path string) *Dir {
	t.Helper()
	d := openDir(t, path)
	check(t, d.Init(background(t)))
	return d
}

func openDir(t testing.TB, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	check(t, err)
	return d
}

func TestDir(t *testing.T) {
	d := newDir(t)
	conform(t, func(t testing.TB) Store { return openDir(t, d.Path) })
	onlyEntries(t, d)
}

// onlyEntries checks that no temporary file is left, and not more versions of a key than there may be; each closed to
// others.
func onlyEntries(t *testing.T, d *Dir) {
	t.Helper()
	versions := map[string]int{}
	check(t, filepath.WalkDir(d.Path, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if _, ok := parseVersion(e.Name()); ok {
			versions[filepath.Dir(path)]++
		} else if !e.IsDir() && e.Name() != markFile {
			t.Errorf("%s is left", path)
		}
		return nil
	}))
	for folder, n := range versions {
		if n > most {
			t.Errorf("%s has %d versions", folder, n)
		}
	}
}

// processes runs this binary several times at once and returns what each prints, line by line.
func processes(t *testing.T, n int, role string, env ...string) [][]string {
	t.Helper()
	cmds, outs, errs := make([]*exec.Cmd, n), make([]bytes.Buffer, n), make([]bytes.Buffer, n)
	for i := range cmds {
		cmds[i] = helperCommand(os.Args[0], role, append(env, fmt.Sprintf("STORE_NAME=%d", i))...)
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], &errs[i]
		check(t, cmds[i].Start())
	}
	var lines [][]string
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("process %d: %v %s", i, err, errs[i].Bytes())
		}
		lines = append(lines, strings.Fields(outs[i].String()))
	}
	return lines
}

func TestDirCreateRaceOfProcesses(t *testing.T) {
	d := newDirOnDisk(t)
	winner := map[string]int{}
	var won []int
	for i, rounds := range processes(t, 3, "create", "STORE_DIR="+d.Path) {
		won = append(won, len(rounds))
		for _, round := range rounds {
			if other, taken := winner[round]; taken {
				t.Errorf("race %s was won by %d and %d", round, other, i)
			}
			winner[round] = i
			wants(t, d, "race/"+round, strconv.Itoa(i), 1)
		}
	}
	t.Logf("%d races among 3 processes; won: %v", races, won)
	if len(winner) != races {
		t.Errorf("%d races of %d were won", len(winner), races)
	}
	onlyEntries(t, d)
}

func TestDirSwapRaceOfProcesses(t *testing.T) {
	d := newDirOnDisk(t)
	create(t, d, "counter", "0")
	const each = 400
	var versions []Version
	for _, lines := range processes(t, 3, "count", "STORE_DIR="+d.Path, fmt.Sprintf("STORE_COUNT=%d", each)) {
		for _, line := range lines {
			v, err := strconv.Atoi(line)
			check(t, err)
			versions = append(versions, Version(v))
		}
	}
	counted(t, d, "counter", versions, 3*each)
	onlyEntries(t, d)
}

// A writer that is killed at any moment leaves the store as it was or with one version more, never a torn one.
func TestDirKilled(t *testing.T) {
	d := newDirOnDisk(t)
	ctx, cancel := context.WithCancel(background(t))
	read := make(chan error, 1)
	reads := 0
	go func() {
		var last Version
		for ctx.Err() == nil {
			e, err := d.Get(ctx, "killed/one")
			switch {
			case ctx.Err() != nil, errors.Is(err, ErrNotFound) && last == 0:
				continue
			case err != nil:
			case !isSealed(e.Value):
				err = fmt.Errorf("version %d is torn: %d bytes", e.Version, len(e.Value))
			case e.Version < last:
				err = fmt.Errorf("version %d after %d", e.Version, last)
			}
			if err != nil {
				read <- err
				return
			}
			last = e.Version
			reads++
		}
		read <- nil
	}()
	const kills = 60
	for range kills {
		cmd := helperCommand(os.Args[0], "write", "STORE_DIR="+d.Path)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		out.Read(make([]byte, 1)) // it writes
		go io.Copy(io.Discard, out)
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		cmd.Process.Kill()
		if err := cmd.Wait(); stderr.Len() > 0 {
			t.Fatalf("%v %s", err, stderr.Bytes())
		}
	}
	e, err := d.Get(ctx, "killed/one")
	check(t, err)
	strays := temps(t, d, "killed/one")
	cancel()
	check(t, <-read)
	t.Logf("%d kills, %d versions, %d reads, %d temporary files left", kills, e.Version, reads, len(strays))
	if e.Version < kills {
		t.Error("the writers did not get to write")
	}
	old(t, strays)
	swap(t, d, "killed/one", e.Version, "after")
	onlyEntries(t, d)
}

// temps are the temporary files at a key.
func temps(t testing.TB, d *Dir, key string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.Path, key, tempPrefix+"*"))
	check(t, err)
	return found
}

// versionsOf are the files of the versions at a key.
func versionsOf(t testing.TB, d *Dir, key string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.Path, key, "@*"))
	check(t, err)
	return found
}

// old makes files older than a writer lives, and than versions stay.
func old(t testing.TB, files []string) {
	t.Helper()
	for _, file := range files {
		then := time.Now().Add(-keptFor - time.Minute)
		check(t, os.Chtimes(file, then, then))
	}
}

// Killed at each durable step of a Create, of a Swap, of one that removes an old version, and of Init.
func TestDirFaultPoints(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "store.test")
	build := exec.Command("go", "test", "-tags", "faultpoints", "-c", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v %s", err, out)
	}
	killed := func(d *Dir, role string, n int) bool {
		t.Helper()
		out, err := helperCommand(binary, role, "STORE_DIR="+d.Path, fmt.Sprintf("CONVERGE_FAULT=%d", n)).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			return true
		}
		if err != nil {
			t.Fatalf("%s, point %d: %v %s", role, n, err, out)
		}
		return false
	}
	for _, before := range []Version{0, 1, kept + 3} {
		n := 1
		for dead := true; dead; n++ {
			d := newDir(t)
			for range before {
				check(t, helperOnce(d))
			}
			old(t, versionsOf(t, d, "killed/one"))
			dead = killed(d, "once", n)
			e, err := d.Get(background(t), "killed/one")
			switch {
			case err == nil && isSealed(e.Value) && (e.Version == before || e.Version == before+1) && len(e.Value) == int(e.Version)+sha256.Size:
			case before == 0 && errors.Is(err, ErrNotFound):
			default:
				t.Errorf("point %d on version %d: %v, version %d of %d bytes", n, before, err, e.Version, len(e.Value))
			}
			old(t, temps(t, d, "killed/one"))
			check(t, helperOnce(d))
			onlyEntries(t, d)
		}
		t.Logf("on version %d: %d points", before, n-2)
		if n < 7 {
			t.Error("the fault points are not reached")
		}
	}
	n := 1
	for dead := true; dead; n++ {
		d := openDir(t, filepath.Join(t.TempDir(), "new"))
		dead = killed(d, "init", n)
		check(t, d.Init(background(t)))
		create(t, d, "a", "x")
	}
	if n < 5 {
		t.Errorf("Init: %d points", n-2)
	}
}

// A folder that is not there, and one that is there and no store, are no empty store.
func TestDirNotMounted(t *testing.T) {
	at := filepath.Join(t.TempDir(), "mnt")
	d := openDir(t, at)
	unusableBy := func(says ...string) {
		t.Helper()
		ctx := background(t)
		_, err := d.Get(ctx, "a")
		_, err2 := d.Create(ctx, "a", nil)
		_, err3 := d.Swap(ctx, "a", 1, nil)
		_, err4 := d.List(ctx, "")
		for _, err := range []error{err, err2, err3, err4} {
			wantError(t, err, ErrUnavailable, append(says, "the folder "+at, "is it mounted here?")...)
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		err = d.Watch(short, "a", 1)
		wantError(t, err, context.DeadlineExceeded, says...)
	}
	unusableBy("no such file or directory")
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the folder has been made: %v", err)
	}
	check(t, os.Mkdir(at, 0o755))
	unusableBy("it is not a store: .store is not in it")
	check(t, os.Symlink("/etc/passwd", filepath.Join(at, markFile)))
	_, err := d.Get(background(t), "a")
	wantError(t, err, ErrUnavailable, at+"/.store: it is not what converge puts there")
	wantError(t, d.Init(background(t)), ErrUnavailable)
	check(t, os.Remove(filepath.Join(at, markFile)))
	check(t, os.WriteFile(filepath.Join(at, markFile), []byte("converge store 2\n"), 0o600))
	wantError(t, d.Init(background(t)), ErrUnavailable, "another converge")
	check(t, os.Remove(filepath.Join(at, markFile)))

	check(t, d.Init(background(t)))
	check(t, d.Init(background(t)))
	create(t, d, "a", "x")
	wantError(t, openDir(t, at+"/no/such").Init(background(t)), ErrUnavailable, "no such file or directory")
	for _, bad := range []string{"", "relative", "./x", "/a\x00b"} {
		if _, err := OpenDir(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// What somebody else puts into the store is not followed, not waited for and not taken for an entry.
func TestDirForeignThings(t *testing.T) {
	d, ctx := newDir(t), background(t)
	outside := filepath.Join(filepath.Dir(d.Path), "outside")
	check(t, os.MkdirAll(outside+"/sub", 0o755))
	check(t, os.WriteFile(outside+"/secret", []byte("secret"), 0o644))
	in := func(name string) string { return filepath.Join(d.Path, name) }
	v := create(t, d, "node/app1", "x")
	for _, name := range []string{"@", "@0", "@01", "@-1", "@1x", "@99999999999999999999", "2", "notes.txt", "@2~", ".nfs0001", "@+2"} {
		check(t, os.WriteFile(in("node/app1/"+name), []byte("garbage"), 0o600))
	}
	wants(t, d, "node/app1", "x", v)
	check(t, os.Symlink(outside, in("node/link")))
	check(t, unix.Mkfifo(in("node/fifo"), 0o666))
	check(t, os.WriteFile(in("node/file"), nil, 0o600))
	keys, err := d.List(ctx, "")
	if err != nil || len(keys) != 1 || keys[0] != (Key{"node/app1", v}) {
		t.Errorf("List: %v %v", keys, err)
	}
	for _, name := range []string{"link", "fifo", "file"} {
		_, err := d.Get(ctx, "node/"+name)
		wantError(t, err, ErrUnavailable, in("node/"+name), "not what converge puts there", "remove it")
		_, err = d.Create(ctx, "node/"+name, []byte("x"))
		wantError(t, err, ErrUnavailable, in("node/"+name))
		_, err = d.Create(ctx, "node/"+name+"/below", []byte("x"))
		wantError(t, err, ErrUnavailable, in("node/"+name))
		_, err = d.List(ctx, "node/"+name+"/")
		wantError(t, err, ErrUnavailable, in("node/"+name))
	}

	// A thing under the next version's name: the entry is damaged, until it is removed.
	for what, put := range map[string]func(string) error{
		"link":    func(p string) error { return os.Symlink(outside+"/secret", p) },
		"dangle":  func(p string) error { return os.Symlink(outside+"/new", p) },
		"zero":    func(p string) error { return os.Symlink("/dev/zero", p) },
		"folder":  func(p string) error { return os.Mkdir(p, 0o700) },
		"fifo":    func(p string) error { return unix.Mkfifo(p, 0o666) },
		"socket":  func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) },
		"too big": func(p string) error { return os.WriteFile(p, make([]byte, MaxValue+1), 0o600) },
		"sparse":  func(p string) error { check(t, os.WriteFile(p, nil, 0o600)); return os.Truncate(p, 1<<40) },
	} {
		next := in("node/app1/@2")
		check(t, put(next))
		soon(t, time.Second, what, func() {
			_, err := d.Get(ctx, "node/app1")
			wantError(t, err, ErrUnavailable, next, "remove it")
			_, err = d.Swap(ctx, "node/app1", v, []byte("y"))
			wantError(t, err, ErrChanged)
		})
		check(t, os.RemoveAll(next))
		wants(t, d, "node/app1", "x", v)
	}
	entries, err := os.ReadDir(outside)
	check(t, err)
	if len(entries) != 2 {
		t.Errorf("something was written outside: %v", entries)
	}

	// A value that was damaged comes back as it is, and a good one can be put over it.
	check(t, os.Truncate(in("node/app1/@1"), 0))
	wants(t, d, "node/app1", "", v)
	swap(t, d, "node/app1", v, "good")
	// The last version there can be.
	check(t, os.WriteFile(in("node/app1/@9223372036854775807"), []byte("end"), 0o600))
	_, err = d.Swap(ctx, "node/app1", 9223372036854775807, nil)
	wantError(t, err, ErrUnavailable, "the last version")
}

// A writer that found version 1 and then slept while others went on finds its version taken, however many they are.
func TestDirSlowWriter(t *testing.T) {
	for _, others := range []int{1, 2, 30, most - 1} {
		d := newDir(t)
		v := create(t, d, "a", "1")
		f, err := d.find("a")
		check(t, err)
		slow, err := f.stage([]byte("slow"))
		check(t, err)
		for range others {
			v = swap(t, d, "a", v, "other")
		}
		if err := slow.link(versionName(2)); err != unix.EEXIST {
			t.Errorf("%d others: %v", others, err)
		}
		slow.discard()
		f.close()
		wants(t, d, "a", "other", v)
		onlyEntries(t, d)
	}
}

// One that slept until its version was removed is not taken for the winner, though the name is free: its temporary file
// has gone before, and where it has not, it sees that there are others.
func TestDirVerySlowWriter(t *testing.T) {
	d := newDir(t)
	v := create(t, d, "a", "1")
	f, err := d.find("a")
	check(t, err)
	defer f.close()
	gone, err := f.stage([]byte("slow"))
	check(t, err)
	slow, err := f.stage([]byte("slow"))
	check(t, err)
	for range 5 {
		v = swap(t, d, "a", v, "other")
	}
	old(t, versionsOf(t, d, "a"))
	old(t, []string{filepath.Join(d.Path, "a", gone.name)})
	v = swap(t, d, "a", v, "other")
	if left := versionsOf(t, d, "a"); len(left) != kept {
		t.Errorf("left: %v", left)
	}
	if err := gone.link(versionName(2)); err != unix.ENOENT {
		t.Errorf("linked: %v", err)
	}
	gone.discard()
	check(t, slow.link(versionName(2)))
	slow.discard()
	wants(t, d, "a", "other", v)
	slow.time = slow.time.Add(-keptFor)
	wantError(t, d.overtaken(slow, "a", 2), ErrUnavailable, "a got 5 other versions while version 2", "read it again")
	if left := versionsOf(t, d, "a"); len(left) != kept {
		t.Errorf("left: %v", left)
	}
	wants(t, d, "a", "other", v)
	swap(t, d, "a", v, "next")
}

// A winner that others overtook before it looked again has won.
func TestDirOvertakenWinner(t *testing.T) {
	d := newDir(t)
	create(t, d, "a", "1")
	f, err := d.find("a")
	check(t, err)
	defer f.close()
	winner, err := f.stage([]byte("2"))
	check(t, err)
	defer winner.discard()
	check(t, winner.link(versionName(2)))
	for v := Version(2); v < 100; v++ {
		swap(t, d, "a", v, "other")
		check(t, d.overtaken(winner, "a", 2))
	}
}

// Versions that come fast do not fill the disk.
func TestDirMostVersions(t *testing.T) {
	d := newDir(t)
	v := create(t, d, "a", "x")
	for range most + 20 {
		v = swap(t, d, "a", v, "x")
	}
	if n := len(versionsOf(t, d, "a")); n != most {
		t.Errorf("%d versions", n)
	}
}

// Whoever reads while others write much never finds nothing.
func TestDirReadersAndPruning(t *testing.T) {
	d := newDir(t)
	v := create(t, d, "a", "x")
	ctx, cancel := context.WithCancel(background(t))
	done := make(chan error, 3)
	for range cap(done) {
		go func() {
			for ctx.Err() == nil {
				if _, err := d.Get(ctx, "a"); err != nil && ctx.Err() == nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 500 {
		v = swap(t, d, "a", v, "x")
	}
	cancel()
	for range cap(done) {
		check(t, <-done)
	}
}

// A young temporary file is somebody's who is writing.
func TestDirTemporaryFiles(t *testing.T) {
	d := newDir(t)
	v := create(t, d, "a", "x")
	young, stale := filepath.Join(d.Path, "a", tempPrefix+"young"), filepath.Join(d.Path, "a", tempPrefix+"stale")
	for _, name := range []string{young, stale} {
		check(t, os.WriteFile(name, []byte("x"), 0o600))
	}
	old(t, []string{stale})
	swap(t, d, "a", v, "y")
	if left := temps(t, d, "a"); !slices.Equal(left, []string{young}) {
		t.Errorf("left: %v", left)
	}
}

// Modes do not depend on the umask. The mask is the process's, so that a process of its own has it.
func TestDirUmask(t *testing.T) {
	for _, mask := range []string{"000", "777"} {
		if mask == "777" && os.Geteuid() != 0 {
			continue
		}
		d := openDir(t, filepath.Join(t.TempDir(), "s"))
		for _, role := range []string{"init", "once", "once"} {
			cmd := exec.Command("sh", "-c", "umask "+mask+"; exec "+os.Args[0])
			cmd.Env = append(os.Environ(), "STORE_HELPER="+role, "STORE_DIR="+d.Path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
		}
		check(t, filepath.WalkDir(d.Path, func(path string, e os.DirEntry, err error) error {
			check(t, err)
			info, err := e.Info()
			check(t, err)
			want := os.FileMode(0o600)
			if e.IsDir() {
				want = 0o700
			}
			if info.Mode().Perm() != want {
				t.Errorf("umask %s: %s has mode %v", mask, path, info.Mode())
			}
			return nil
		}))
	}
}

// A server that is away holds a call in the kernel for good. The caller comes back all the same, and not all its threads are lost.
func TestDirHangs(t *testing.T) {
	d := newDir(t)
	hang := make(chan struct{})
	defer close(hang)
	for range dirCalls + 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		_, err := within(ctx, d, func(context.Context) (int, error) { <-hang; return 1, nil })
		cancel()
		wantError(t, err, ErrUnavailable, "did not answer in time", d.Path)
		wantError(t, err, context.DeadlineExceeded)
	}
	if n := len(d.calls); n != dirCalls {
		t.Errorf("%d calls are left behind", n)
	}
}

// inNamespace runs the calling test again in a mount namespace of its own and is true in there:
//
//	if !inNamespace(t) { return }
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("STORE_NAMESPACE") != "" {
		return true
	}
	need(t, os.Geteuid() == 0, "root")
	_, err := exec.LookPath("unshare")
	need(t, err == nil, "unshare")
	cmd := exec.Command("unshare", "-m", "--propagation", "private", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "STORE_NAMESPACE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("in the namespace: %v\n%s", err, out)
	}
	return false
}

func mount(t *testing.T, source, target, kind string, flags uintptr, options string) {
	t.Helper()
	check(t, os.MkdirAll(target, 0o755))
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		t.Fatalf("mount %s: %v", target, err)
	}
	t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
}

func TestDirFull(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	at := filepath.Join(t.TempDir(), "full")
	mount(t, "tmpfs", at, "tmpfs", 0, "mode=700,size=64k")
	d, ctx := initDir(t, at), background(t)
	v := create(t, d, "a", "old")
	large := bytes.Repeat([]byte("x"), 128<<10)
	_, err := d.Swap(ctx, "a", v, large)
	_, err2 := d.Create(ctx, "b", large)
	for _, err := range []error{err, err2} {
		wantError(t, err, ErrUnavailable, "the folder "+at, "no space left on device", "free some space there")
	}
	wants(t, d, "a", "old", v)
	_, err = d.Get(ctx, "b")
	wantError(t, err, ErrNotFound)
	onlyEntries(t, d)
	swap(t, d, "a", v, "new")
	create(t, d, "b", "new")
}

func TestDirNoInodes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	at := filepath.Join(t.TempDir(), "full")
	mount(t, "tmpfs", at, "tmpfs", 0, "mode=700,nr_inodes=8")
	d := initDir(t, at)
	v, err := create(t, d, "a", "old"), error(nil)
	for range 8 {
		var next Version
		if next, err = d.Swap(background(t), "a", v, []byte("old")); err != nil {
			break
		}
		v = next
	}
	wantError(t, err, ErrUnavailable, "no space left on device")
	wants(t, d, "a", "old", v)
	onlyEntries(t, d)
}

func TestDirReadOnly(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d, ctx := newDir(t), background(t)
	v := create(t, d, "a/b", "x")
	mount(t, d.Path, d.Path, "", unix.MS_BIND, "")
	mount(t, "", d.Path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	_, err := d.Swap(ctx, "a/b", v, nil)
	_, err2 := d.Create(ctx, "c", nil)
	_, err3 := d.Create(ctx, "a/b/c", nil)
	for _, err := range []error{err, err2, err3} {
		wantError(t, err, ErrUnavailable, "read-only file system", "mount -o remount,rw")
	}
	_, err = d.Create(ctx, "a/b", nil)
	wantError(t, err, ErrExists)
	wants(t, d, "a/b", "x", v)
	if keys, err := d.List(ctx, ""); err != nil || len(keys) != 1 {
		t.Errorf("List: %v %v", keys, err)
	}
	check(t, d.Init(ctx)) // it is a store already
}

// Another user than root, whom the folder is closed to.
func TestDirPermission(t *testing.T) {
	need(t, os.Geteuid() == 0, "root")
	d := newDir(t)
	create(t, d, "killed/one", "x")
	parent := filepath.Dir(d.Path)
	binary := filepath.Join(parent, "store.test")
	content, err := os.ReadFile(os.Args[0])
	check(t, err)
	check(t, os.WriteFile(binary, content, 0o755))
	for _, closed := range []string{d.Path, d.Path + "/.store", d.Path + "/killed", d.Path + "/killed/one", d.Path + "/killed/one/@1"} {
		check(t, filepath.WalkDir(d.Path, func(path string, _ os.DirEntry, err error) error {
			check(t, err)
			return os.Chmod(path, 0o755)
		}))
		check(t, os.Chmod(closed, 0o700))
		if !strings.Contains(closed, ".store") && !strings.Contains(closed, "@") {
			check(t, os.Chmod(closed, 0))
		} else {
			check(t, os.Chmod(closed, 0o600))
		}
		cmd := helperCommand(binary, "once", "STORE_DIR="+d.Path)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "permission denied: run converge as root") || !strings.Contains(string(out), closed) {
			t.Errorf("%s closed: %v %s", closed, err, out)
		}
	}
}

func BenchmarkDir(b *testing.B) { benchmarks(b, newDirOnDisk(b)) }
