package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"converge/fixtures/etcd"
)

func openEtcd(t testing.TB, c EtcdConfig) *Etcd {
	t.Helper()
	e, err := OpenEtcd(c)
	check(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

// client is etcd's own, for what no store does.
func client(t testing.TB, c *etcd.Cluster) *clientv3.Client {
	t.Helper()
	own, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), Logger: zap.NewNop()})
	check(t, err)
	t.Cleanup(func() { own.Close() })
	return own
}

func TestEtcd(t *testing.T) {
	c := etcd.Start(t, etcd.Options{})
	conform(t, func(t testing.TB) Store { return openEtcd(t, EtcdConfig{Endpoints: c.Endpoints()}) })
}

func TestEtcdOfThree(t *testing.T) {
	c := etcd.Start(t, etcd.Options{Members: 3})
	next := 0
	open := func(t testing.TB) Store { // each node prefers another member
		next++
		return openEtcd(t, EtcdConfig{Endpoints: append(c.Endpoints()[next%3:], c.Endpoints()[:next%3]...), Prefix: "/of/three/"})
	}
	for _, test := range []func(*testing.T, func(testing.TB) Store){conformNothing, conformEntry, conformWatchMany, conformCounter} {
		test(t, open)
	}
}

// Other keys in the same etcd are not the store's, and what is no entry is passed over.
func TestEtcdForeignKeys(t *testing.T) {
	c := etcd.Start(t, etcd.Options{Flags: []string{"--max-request-bytes=4000000"}})
	own, ctx := client(t, c), background(t)
	for _, key := range []string{"/converge", "/convergf/a", "/converge/", "/converge/../x", "/converge//a", "/converge/a b", "/other/converge/a", "a"} {
		_, err := own.Put(ctx, key, "x")
		check(t, err)
	}
	s := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints()})
	if keys, err := s.List(ctx, ""); err != nil || len(keys) != 0 {
		t.Errorf("List: %v %v", keys, err)
	}
	v := create(t, s, "a", "x")
	other := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints(), Prefix: "/converge/a/"})
	_, err := other.Get(ctx, "a")
	wantError(t, err, ErrNotFound)

	_, err = own.Put(ctx, "/converge/huge", strings.Repeat("x", MaxValue+1))
	check(t, err)
	_, err = s.Get(ctx, "huge")
	wantError(t, err, ErrUnavailable, "1048577 bytes", "etcdctl del /converge/huge")
	// Somebody deletes the entry: it is not there, and its version does not come back.
	waiting := watched(ctx, s, "a", v)
	time.Sleep(100 * time.Millisecond)
	_, err = own.Delete(ctx, "/converge/a")
	check(t, err)
	check(t, <-waiting)
	_, err = s.Get(ctx, "a")
	wantError(t, err, ErrNotFound)
	_, err = s.Swap(ctx, "a", v, nil)
	wantError(t, err, ErrChanged)
	if again := create(t, s, "a", "y"); again <= v {
		t.Errorf("version %d after %d", again, v)
	}
}

func TestEtcdConfig(t *testing.T) {
	password := func() ([]byte, error) { return []byte("c4n4ry"), nil }
	for _, c := range []EtcdConfig{
		{}, {Endpoints: []string{""}}, {Endpoints: []string{"localhost:2379"}}, {Endpoints: []string{"ftp://x"}}, {Endpoints: []string{"http://"}},
		{Endpoints: []string{"http://root:c4n4ry@x:1"}}, {Endpoints: []string{"http://x:1/path"}}, {Endpoints: []string{"http://x:1"}, TLS: &tls.Config{}},
		{Endpoints: []string{"http://x:1"}, Prefix: "converge/"}, {Endpoints: []string{"http://x:1"}, Prefix: "/converge"}, {Endpoints: []string{"http://x:1"}, Username: "u"},
	} {
		_, err := OpenEtcd(c)
		if err == nil || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	s := openEtcd(t, EtcdConfig{Endpoints: []string{"https://127.0.0.1:1", "https://127.0.0.1:2"}, Username: "u", Password: password, Timeout: time.Second})
	soon(t, 1500*time.Millisecond, "nobody there", func() {
		_, err := s.Get(background(t), "a")
		wantError(t, err, ErrUnavailable, "etcd at https://127.0.0.1:1, https://127.0.0.1:2: ", "does it run, and is this the right address?")
		if strings.Contains(fmt.Sprintf("%+v", err), "c4n4ry") {
			t.Errorf("a password: %v", err)
		}
	})
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	soon(t, 300*time.Millisecond, "nobody there, with a deadline", func() {
		_, err := s.Get(short, "a")
		wantError(t, err, ErrUnavailable)
		wantError(t, err, context.DeadlineExceeded)
	})
	broken := openEtcd(t, EtcdConfig{Endpoints: []string{"http://127.0.0.1:1"}, Username: "u", Password: func() ([]byte, error) { return nil, os.ErrNotExist }})
	_, err := broken.Get(background(t), "a")
	wantError(t, err, ErrUnavailable, `log in as the user "u"`, "file does not exist")
}

// One that is alone stops, freezes, and comes back; the store is the same all the time.
func TestEtcdAlone(t *testing.T) {
	c := etcd.Start(t, etcd.Options{})
	ctx := background(t)
	s, m := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints(), Timeout: time.Second / 2}), c.Members[0]
	v := create(t, s, "a", "x")
	waiting := watched(ctx, s, "a", v)
	down := func(what, says string) {
		t.Helper()
		fresh := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints(), Timeout: time.Second / 2})
		for _, s := range []*Etcd{s, fresh} {
			soon(t, 3*time.Second, "five calls, "+what, func() {
				_, err := s.Get(ctx, "a")
				_, err2 := s.Create(ctx, "b", nil)
				_, err3 := s.Swap(ctx, "a", v+1000, nil) // what is not known may be done
				_, err4 := s.List(ctx, "")
				short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
				_, err5 := s.Get(short, "a")
				for _, err := range []error{err, err2, err3, err4} {
					wantError(t, err, ErrUnavailable, "etcd at "+m.Endpoint, says)
				}
				wantError(t, err5, ErrUnavailable)
				if err := s.Watch(short, "a", v); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("watch: %v", err)
				}
			})
		}
	}
	m.Kill()
	down("killed", "does it run, and is this the right address?")
	m.Start()
	v = eventually(t, s, "a", "x")
	m.Freeze()
	down("frozen", "did not answer in time")
	m.Thaw()
	eventually(t, s, "a", "y")
	select {
	case err := <-waiting:
		check(t, err)
	case <-time.After(10 * time.Second):
		t.Error("the watch has not survived")
	}
	check(t, s.Close())
	_, err := s.Get(ctx, "a")
	wantError(t, err, ErrUnavailable, "it is closed")
	wantError(t, s.Watch(ctx, "a", 0), ErrUnavailable, "it is closed")
}

// eventually does a write until etcd takes it: one that was under way when a member died is told as ErrUnavailable.
func eventually(t *testing.T, s Store, key, value string) Version {
	t.Helper()
	ctx := background(t)
	begin := time.Now()
	for time.Since(begin) < 20*time.Second {
		e, err := s.Get(ctx, key)
		if err == nil {
			var v Version
			if v, err = s.Swap(ctx, key, e.Version, []byte(value)); err == nil {
				return v
			}
		}
		wantError(t, err, ErrUnavailable)
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("etcd does not come back")
	return 0
}

// Each of three in turn is killed, the leader among them: a watch wakes, and reads and writes go on. Then two are.
func TestEtcdMembersKilled(t *testing.T) {
	c := etcd.Start(t, etcd.Options{Members: 3})
	ctx := background(t)
	s := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints()})
	writer := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints()})
	v := create(t, s, "a", "x")
	for i, m := range c.Members {
		waiting := watched(ctx, s, "a", v)
		time.Sleep(200 * time.Millisecond)
		m.Kill()
		soon(t, 5*time.Second, "a read with "+m.Name+" killed", func() { wants(t, s, "a", []string{"x", "0", "1"}[i], v) })
		soon(t, 10*time.Second, "a write with "+m.Name+" killed", func() { v = eventually(t, writer, "a", fmt.Sprint(i)) })
		soon(t, 5*time.Second, "the watch", func() { check(t, <-waiting) })
		m.Start()
	}
	waiting := watched(ctx, s, "a", v)
	c.Members[0].Kill()
	c.Members[2].Kill()
	soon(t, 11*time.Second, "two calls with two of three killed", func() {
		_, err := s.Get(ctx, "a")
		_, err2 := writer.Create(ctx, "b", nil)
		for _, err := range []error{err, err2} {
			wantError(t, err, ErrUnavailable, "etcd at ", c.Members[1].Endpoint, "run")
		}
	})
	c.Members[0].Start()
	eventually(t, writer, "a", "back")
	check(t, <-waiting)
}

// One of three is frozen: its connections stay, and a read that goes to it is asked again elsewhere.
func TestEtcdMemberFrozen(t *testing.T) {
	c := etcd.Start(t, etcd.Options{Members: 3})
	ctx := background(t)
	s := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints(), Timeout: 3 * time.Second})
	v := create(t, s, "a", "x")
	c.Members[0].Freeze()
	defer c.Members[0].Thaw()
	time.Sleep(3 * time.Second) // a new leader, if it was that one
	for range 4 {
		soon(t, 3*time.Second, "a read", func() { wants(t, s, "a", "x", v) })
	}
	_, err := s.List(ctx, "")
	check(t, err)
}

func TestEtcdFull(t *testing.T) {
	c := etcd.Start(t, etcd.Options{Flags: []string{"--quota-backend-bytes=4000000"}})
	s, ctx := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints()}), background(t)
	v := create(t, s, "a", "x")
	var err error
	for i := 0; err == nil && i < 20; i++ {
		_, err = s.Create(ctx, fmt.Sprint("large/", i), make([]byte, MaxValue))
	}
	wantError(t, err, ErrUnavailable, "its database is full", "etcdctl alarm disarm")
	wants(t, s, "a", "x", v)
	_, err = s.Swap(ctx, "a", v, nil)
	wantError(t, err, ErrUnavailable, "its database is full")
}

// A watch whose revision etcd has forgotten is told so, and Watch looks again by itself.
func TestEtcdCompacted(t *testing.T) {
	c := etcd.Start(t, etcd.Options{})
	own, s, ctx := client(t, c), openEtcd(t, EtcdConfig{Endpoints: c.Endpoints()}), background(t)
	v := create(t, s, "a", "1")
	known := v
	for range 5 {
		v = swap(t, s, "a", v, "2")
	}
	_, err := own.Compact(ctx, int64(v))
	check(t, err)
	wantError(t, s.wait(ctx, "a", int64(known)), rpctypes.ErrCompacted)
	check(t, s.Watch(ctx, "a", known))
	waiting := watched(ctx, s, "a", v)
	time.Sleep(100 * time.Millisecond)
	for range 5 {
		create(t, s, fmt.Sprint("b/", v), "")
		_, err := own.Compact(ctx, int64(v)+1)
		check(t, err)
		v = swap(t, s, "a", mustVersion(t, s, "a"), "3")
	}
	check(t, <-waiting)
}

func mustVersion(t testing.TB, s Store, key string) Version {
	t.Helper()
	e, err := s.Get(background(t), key)
	check(t, err)
	return e.Version
}

func TestEtcdPassword(t *testing.T) {
	c := etcd.Start(t, etcd.Options{})
	own, ctx := client(t, c), background(t)
	_, err := own.RoleAdd(ctx, "root")
	check(t, err)
	_, err = own.UserAdd(ctx, "root", "r00t")
	check(t, err)
	_, err = own.UserGrantRole(ctx, "root", "root")
	check(t, err)
	for _, name := range []string{"app", "stranger"} {
		_, err = own.UserAdd(ctx, name, "c4n4ry")
		check(t, err)
	}
	_, err = own.RoleAdd(ctx, "nodes")
	check(t, err)
	_, err = own.RoleGrantPermission(ctx, "nodes", "/converge/", clientv3.GetPrefixRangeEnd("/converge/"), clientv3.PermissionType(clientv3.PermReadWrite))
	check(t, err)
	_, err = own.UserGrantRole(ctx, "app", "nodes")
	check(t, err)
	_, err = own.AuthEnable(ctx)
	check(t, err)

	by := func(user, password string) *Etcd {
		return openEtcd(t, EtcdConfig{Endpoints: c.Endpoints(), Username: user, Password: func() ([]byte, error) { return []byte(password), nil }})
	}
	app := by("app", "c4n4ry")
	v := create(t, app, "a", "x")
	check(t, app.Watch(ctx, "a", 0))
	wants(t, app, "a", "x", v)
	for _, x := range []struct {
		store *Etcd
		says  string
	}{
		{by("app", "c4n4ry-wrong"), `it refuses the user "app" or his password`},
		{by("stranger", "c4n4ry"), `the user "stranger" may not do this: give his role readwrite on the keys /converge/`},
		{openEtcd(t, EtcdConfig{Endpoints: c.Endpoints()}), "it wants a user: give the store a username and a password"},
	} {
		_, err := x.store.Get(ctx, "a")
		_, err2 := x.store.Create(ctx, "b", nil)
		_, err3 := x.store.List(ctx, "")
		for _, err := range []error{err, err2, err3} {
			wantError(t, err, ErrUnavailable, x.says)
			if strings.Contains(fmt.Sprintf("%+v", err), "c4n4ry") {
				t.Errorf("a password: %v", err)
			}
		}
	}
}

// certificates makes an authority and a certificate of it for the loopback address, which serves for both sides.
func certificates(t *testing.T) (folder string, config *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	folder = t.TempDir()
	check(t, os.WriteFile(filepath.Join(folder, "cert"), certPEM, 0o600))
	check(t, os.WriteFile(filepath.Join(folder, "key"), keyPEM, 0o600))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return folder, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

func TestEtcdTLS(t *testing.T) {
	folder, config := certificates(t)
	c := etcd.Start(t, etcd.Options{ClientTLS: []string{
		"--cert-file", folder + "/cert", "--key-file", folder + "/key", "--client-cert-auth", "--trusted-ca-file", folder + "/cert"}})
	s := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints(), TLS: config})
	v := create(t, s, "a", "x")
	wants(t, s, "a", "x", v)
	withoutCertificate := config.Clone()
	withoutCertificate.Certificates = nil
	for says, config := range map[string]*tls.Config{"certificate signed by unknown authority": nil, "": withoutCertificate} {
		s := openEtcd(t, EtcdConfig{Endpoints: c.Endpoints(), TLS: config, Timeout: time.Second})
		_, err := s.Get(background(t), "a")
		wantError(t, err, ErrUnavailable, c.Members[0].Endpoint, says)
		t.Log(err)
	}
}

func BenchmarkEtcd(b *testing.B) {
	c := etcd.Start(b, etcd.Options{})
	benchmarks(b, openEtcd(b, EtcdConfig{Endpoints: c.Endpoints()}))
}
