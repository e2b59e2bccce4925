package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"converge/fixtures/pgserver"
)

// Other servers are asked what they have, those that answer; one that streams from this server has the same and is not.
func TestPostgresElsewhere(t *testing.T) {
	ctx := background(t)
	mine := pgserver.Start(t, pgserver.Options{Major: postgresMajor, HBA: "local all all trust\nhost replication all 127.0.0.1/32 trust\n"})
	theirs, empty := startPostgres(t), startPostgres(t)
	for i, s := range []*pgserver.Server{mine, theirs} {
		p := openMaster(t, s)
		check(t, p.Init(ctx))
		create(t, p, "authority", fmt.Sprint("as server ", i, " has it"))
	}
	at := func(text string) netip.Addr { return netip.MustParseAddr(text) }
	away := func(context.Context) (*pgx.Conn, error) { return nil, errors.New("away") }
	lost := func(ctx context.Context) (*pgx.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	p := openPostgres(t, PostgresConfig{Read: as(mine, mine.User), Write: as(mine, mine.User), Others: []Server{
		{at("10.0.0.1"), away}, {at("127.0.0.1"), as(theirs, theirs.User)}, {at("10.0.0.2"), as(empty, empty.User)}, {at("10.0.0.3"), lost},
	}})
	says := func() (out []string) {
		for _, e := range p.Elsewhere(ctx, "authority") {
			out = append(out, string(e.Value))
		}
		return out
	}
	if got := says(); !slices.Equal(got, []string{"as server 1 has it"}) {
		t.Errorf("elsewhere: %q", got)
	}
	stream := exec.CommandContext(ctx, "/usr/lib/postgresql/15/bin/pg_receivewal", "-h", "127.0.0.1", "-p", fmt.Sprint(mine.Port), "-U", mine.User, "-D", t.TempDir(), "--no-password")
	check(t, stream.Start())
	t.Cleanup(func() { stream.Process.Kill(); stream.Wait() })
	for range 200 {
		if ask(t, mine, "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'") == "1" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := says(); len(got) != 0 {
		t.Errorf("elsewhere, when the other one streams from here: %q", got)
	}
}
