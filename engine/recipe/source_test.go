package recipe

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// folder makes a folder that only its owner can write to, with files in it.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAFolderIsReadInTheOrderOfItsNames(t *testing.T) {
	dir := folder(t, map[string]string{"b.hcl": "# b", "a.hcl": "# a", "c.txt": "# c", "10.hcl": "", "d.hcl.rpmsave": "x"})
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	sources, err := ReadFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range sources {
		names = append(names, strings.TrimPrefix(s.Name, dir+"/")+"="+string(s.Bytes))
	}
	wantStrings(t, "files", names, "10.hcl=", "a.hcl=# a", "b.hcl=# b")
}

func TestWhatOthersCouldHaveWrittenIsRefused(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(dir, file string)
		want  string
	}{
		"symlink":        {func(dir, file string) { must(os.Rename(file, dir+"/x")); must(os.Symlink("x", file)) }, "is a symbolic link: put the file itself there"},
		"dangling link":  {func(dir, file string) { must(os.Remove(file)); must(os.Symlink("nowhere", file)) }, "is a symbolic link"},
		"group writable": {func(_, file string) { must(os.Chmod(file, 0o664)) }, "has mode 0664, so others than its owner can write to it: chmod go-w"},
		"world writable": {func(_, file string) { must(os.Chmod(file, 0o646)) }, "has mode 0646"},
		"folder":         {func(_, file string) { must(os.Remove(file)); must(os.Mkdir(file, 0o755)) }, "is no regular file"},
		"fifo":           {func(_, file string) { must(os.Remove(file)); must(syscall.Mkfifo(file, 0o600)) }, "is no regular file"},
		"too large":      {func(_, file string) { must(os.Truncate(file, MaxFileBytes+1)) }, "has 1048577 bytes; a recipe file may have 1048576: split it"},
		"folder mode":    {func(dir, _ string) { must(os.Chmod(dir, 0o777)) }, "has mode 0777"},
		"other owner": {func(_, file string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			must(os.Chown(file, 12345, -1))
		}, "is owned by uid 12345, who could change what is done as root: chown root"},
		"owner of the folder": {func(dir, _ string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			must(os.Chown(dir, 12345, -1))
		}, "is owned by uid 12345"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, map[string]string{"a.hcl": "# a", "z.hcl": "# z"})
			c.spoil(dir, filepath.Join(dir, "a.hcl"))
			_, err := ReadFolder(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want %q with the path", err, c.want)
			}
		})
	}
}

func TestAFolderThatIsNoneIsRefused(t *testing.T) {
	dir := folder(t, map[string]string{"a.hcl": ""})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"):  "no such file or directory",
		filepath.Join(dir, "a.hcl"): "is no folder: give the folder",
		link:                        "is a symbolic link: give the folder that it points to",
	} {
		if _, err := ReadFolder(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestEveryFileAtFaultIsNamed(t *testing.T) {
	dir := folder(t, map[string]string{"a.hcl": "", "b.hcl": "", "c.hcl": ""})
	for _, name := range []string{"a.hcl", "c.hcl"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	_, err := ReadFolder(dir)
	if err == nil || !strings.Contains(err.Error(), "a.hcl") || !strings.Contains(err.Error(), "c.hcl") || strings.Contains(err.Error(), "b.hcl") {
		t.Errorf("got %v", err)
	}
}

// The two looks at a file are real ones, with a write between them.
func TestAChangeWhileReadingIsSeen(t *testing.T) {
	path := filepath.Join(folder(t, map[string]string{"a.hcl": "# one"}), "a.hcl")
	look := func() os.FileInfo {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	before := look()
	if changed(before, look(), 5) {
		t.Error("an untouched file counts as changed")
	}
	if !changed(before, look(), 4) {
		t.Error("a short read does not count as a change")
	}
	for {
		if err := os.WriteFile(path, []byte("# two"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, before.ModTime(), before.ModTime()); err != nil {
			t.Fatal(err)
		}
		if !changeTime(look()).Equal(changeTime(before)) {
			break // the clock of the file system has moved on
		}
	}
	if !changed(before, look(), 5) {
		t.Error("a rewrite with its time set back does not count as a change")
	}
}
