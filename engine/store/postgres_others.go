package store

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Server is another server of the environment that may have the table.
type Server struct {
	Address netip.Addr
	Connect func(context.Context) (*pgx.Conn, error)
}

// otherTimeout is how long another server is waited for. It may be the one that is lost.
const otherTimeout = 3 * time.Second

// Elsewhere returns what other servers have at a key, as far as they answer and have it, in the order of the config. A master
// that was replaced while it was away has a table of its own, in which nobody has taken its place; the others know. Those that
// stream from the server that this node reads have the same table, and are not asked.
func (p *Postgres) Elsewhere(ctx context.Context, key string) []Entry {
	var ask []Server
	following := p.followers(ctx)
	for _, s := range p.config.Others {
		if !following[s.Address] {
			ask = append(ask, s)
		}
	}
	found := make([]*Entry, len(ask))
	var all sync.WaitGroup
	for i, s := range ask {
		all.Go(func() {
			other, err := OpenPostgres(PostgresConfig{Schema: p.config.Schema, Read: s.Connect, Timeout: otherTimeout})
			if err != nil {
				return
			}
			defer other.Close()
			if e, err := other.Get(ctx, key); err == nil {
				found[i] = &e
			}
		})
	}
	all.Wait()
	var out []Entry
	for _, e := range found {
		if e != nil {
			out = append(out, *e)
		}
	}
	return out
}

// followers are the addresses that standbys stream to from the server that this node reads. Where it cannot be asked, there
// are none: the others are asked then, which does no harm.
func (p *Postgres) followers(ctx context.Context) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	if len(p.config.Others) == 0 {
		return out
	}
	_ = p.do(ctx, p.read, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT pg_catalog.host(client_addr) FROM pg_catalog.pg_stat_replication WHERE state = 'streaming' AND client_addr IS NOT NULL`, pgx.QueryExecModeExec)
		if err != nil {
			return err
		}
		addresses, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, text := range addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				out[a.Unmap()] = true
			}
		}
		return err
	})
	return out
}
