package disk

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func benchTree(b *testing.B) tree {
	needRoot(b)
	tr := newTree(b)
	tr.dir("etc/postgresql/15/main", 0o755, 0)
	tr.file("etc/postgresql/15/main/pg_hba.conf", string(make([]byte, 5000)), 0o640, 0)
	tr.link("etc", "conf", 0)
	return tr
}

const (
	benchPlain = "/etc/postgresql/15/main/pg_hba.conf"
	benchLink  = "/conf/postgresql/15/main/pg_hba.conf"
)

func BenchmarkStat(b *testing.B) {
	tr := benchTree(b)
	for name, p := range map[string]string{"plain": benchPlain, "link": benchLink} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := tr.Stat(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("os.Stat", func(b *testing.B) {
		for b.Loop() {
			os.Stat(tr.at(benchPlain))
		}
	})
}

func BenchmarkReadFile(b *testing.B) {
	tr := benchTree(b)
	for name, p := range map[string]string{"plain": benchPlain, "link": benchLink} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := tr.ReadFile(p, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("os.ReadFile", func(b *testing.B) {
		for b.Loop() {
			os.ReadFile(tr.at(benchPlain))
		}
	})
}

// On the machine's own disk most of it is waiting for fsync; on tmpfs the calls themselves show.
func BenchmarkWrite(b *testing.B) {
	needRoot(b)
	for name, root := range map[string]string{"disk": os.TempDir(), "tmpfs": "/dev/shm"} {
		b.Run(name, func(b *testing.B) {
			var st unix.Statfs_t
			if unix.Statfs(root, &st) != nil || name == "tmpfs" && st.Type != unix.TMPFS_MAGIC {
				b.Skip("no tmpfs at /dev/shm")
			}
			dir, err := os.MkdirTemp(root, "converge-bench-")
			check(b, err)
			defer os.RemoveAll(dir)
			tr := treeAt(b, dir)
			tr.file("f", "old", 0o600, 0)
			content := make([]byte, 5000)
			was := tr.before("/f")
			for b.Loop() {
				s, err := tr.Stage(File{Path: "/f", Content: content, Mode: 0o600, Temp: prefix + "b"})
				check(b, err)
				check(b, s.Switch(was))
				was.Content = content
			}
		})
	}
}
