package postgres

import (
	"testing"
	"time"

	"converge/fixtures/pgserver"
)

func TestZZ(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		ps := pgserver.Start(t, pgserver.Options{Major: major})
		s := found(t, ps)
		installTLS(t, ps)
		ps.AppendConf("ssl = on")
		reloadAndWait(t, ps, s)
		least := func(name string, f func()) {
			m := time.Hour
			for range 15 {
				b := time.Now()
				f()
				m = min(m, time.Since(b))
			}
			t.Logf("%d %s %v", major, name, m.Round(10*time.Microsecond))
		}
		least("Discover", func() { found(t, ps) })
		least("Process", func() { s.Process() })
		least("Connect", func() { c, err := s.Connect(t.Context()); if err != nil { t.Fatal(err) }; c.Close(t.Context()) })
		least("Served", func() { s.Served(t.Context()) })
		least("Preflight", func() { s.Preflight(Root("/")) })
		least("TryStart", func() { if err := s.TryStart(t.Context(), Root("/")); err != nil { t.Fatal(err) } })
	}
}
