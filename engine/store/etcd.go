package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/status"
)

// An Etcd is a store in etcd, version 3.4 or later. A version is the revision of the whole etcd at which the entry was
// written (ModRevision), so that the first one is not 1 and there are gaps.
//
// Every read is linearizable: it sees what anybody has written before it. It goes to another member when one does not
// answer in a third of the time. A write is sent once: when its answer does not come, the error wraps ErrUnavailable, and
// it was done or not.
type Etcd struct {
	config EtcdConfig

	turn   chan struct{} // holds something while a call opens or closes the client
	client *clientv3.Client
	end    context.CancelFunc // of all that the client does
	closed bool
}

// An EtcdConfig says where etcd is.
type EtcdConfig struct {
	Endpoints []string // "https://10.0.1.10:2379"
	Prefix    string   // of the keys in etcd; "" is /converge/
	Username  string   // "" is none
	Password  func() ([]byte, error)
	TLS       *tls.Config   // for https
	Timeout   time.Duration // of one call; 0 is 5 s
}

const (
	etcdPage = 1000 // how many keys are listed at a time

	// A member that is frozen is found out by the stream of a watch. etcd turns away who asks more often than each 5 s
	// (--grpc-keepalive-min-time).
	etcdKeepAlive        = 10 * time.Second
	etcdKeepAliveTimeout = 5 * time.Second

	// etcdAnswer is the largest answer: a value, or a page of keys.
	etcdAnswer = 8 << 20
)

// OpenEtcd returns the store. It connects when the store is first used.
func OpenEtcd(c EtcdConfig) (*Etcd, error) {
	if c.Prefix == "" {
		c.Prefix = "/converge/"
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if len(c.Endpoints) == 0 {
		return nil, errors.New("a store in etcd has at least one endpoint, such as \"https://10.0.1.10:2379\"")
	}
	for _, endpoint := range c.Endpoints {
		if err := checkEndpoint(endpoint, c.TLS != nil); err != nil {
			return nil, err
		}
	}
	if !strings.HasPrefix(c.Prefix, "/") || !strings.HasSuffix(c.Prefix, "/") {
		return nil, fmt.Errorf("%q is no prefix of keys in etcd: it begins and ends with a slash", c.Prefix)
	}
	if c.Username != "" && c.Password == nil {
		return nil, fmt.Errorf("the user %q of etcd needs a password", c.Username)
	}
	return &Etcd{config: c, turn: make(chan struct{}, 1)}, nil
}

// checkEndpoint refuses what would be read in another way than it is meant, and what must not stand in an error.
func checkEndpoint(endpoint string, secure bool) error {
	scheme, address, ok := strings.Cut(endpoint, "://")
	switch {
	case strings.Contains(endpoint, "@"):
		return errors.New("an endpoint of etcd has no user in it: username and password are given by themselves")
	case !ok || scheme != "http" && scheme != "https":
		return fmt.Errorf("the endpoint %q of etcd begins with http:// or https://", endpoint)
	case address == "" || strings.ContainsAny(address, "/?# \t\n"):
		return fmt.Errorf("the endpoint %q of etcd is a scheme, a host and a port, such as \"https://10.0.1.10:2379\"", endpoint)
	case secure && scheme == "http":
		return fmt.Errorf("the endpoint %q of etcd is not encrypted, and there are certificates for it: write https://", endpoint)
	}
	return nil
}

// Get reads one key.
func (e *Etcd) Get(ctx context.Context, key string) (Entry, error) {
	if err := CheckKey(key); err != nil {
		return Entry{}, err
	}
	r, err := e.read(ctx, e.config.Prefix+key)
	switch {
	case err != nil:
		return Entry{}, e.fail(err)
	case len(r.Kvs) == 0:
		return Entry{}, at(e, key, ErrNotFound)
	case len(r.Kvs[0].Value) > MaxValue:
		return Entry{}, &unusable{e.String(), fmt.Sprintf("%s: it has %d bytes, and a value has at most %d", key, len(r.Kvs[0].Value), MaxValue), "delete it: etcdctl del " + e.config.Prefix + key, nil}
	}
	return Entry{r.Kvs[0].Value, Version(r.Kvs[0].ModRevision)}, nil
}

// Create puts the key if it has never been created.
func (e *Etcd) Create(ctx context.Context, key string, value []byte) (Version, error) {
	return e.put(ctx, key, value, clientv3.Compare(clientv3.CreateRevision(e.config.Prefix+key), "=", 0), ErrExists)
}

// Swap puts the key if it was last written at the revision old.
func (e *Etcd) Swap(ctx context.Context, key string, old Version, value []byte) (Version, error) {
	if old < 1 { // the revision of a key that is not there is 0
		if err := checkPut(key, value); err != nil {
			return 0, err
		}
		return 0, at(e, key, ErrChanged)
	}
	return e.put(ctx, key, value, clientv3.Compare(clientv3.ModRevision(e.config.Prefix+key), "=", int64(old)), ErrChanged)
}

func (e *Etcd) put(ctx context.Context, key string, value []byte, when clientv3.Cmp, lost error) (Version, error) {
	if err := checkPut(key, value); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout)
	defer cancel()
	c, err := e.connect(ctx)
	if err != nil {
		return 0, e.fail(err)
	}
	ctx, why := listening(ctx)
	r, err := c.Txn(ctx).If(when).Then(clientv3.OpPut(e.config.Prefix+key, string(value))).Commit()
	if err != nil {
		return 0, e.fail(why.of(err))
	}
	if !r.Succeeded {
		return 0, at(e, key, lost)
	}
	return Version(r.Header.Revision), nil
}

// List reads the keys page by page, all as they were when the first page was read. When etcd has forgotten that moment
// before the last page, it begins again.
func (e *Etcd) List(ctx context.Context, prefix string) ([]Key, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	for again := 3; ; again-- {
		keys, err := e.list(ctx, prefix)
		if errors.Is(err, rpctypes.ErrCompacted) && again > 0 {
			continue
		}
		if err != nil {
			return nil, e.fail(err)
		}
		return onlyKeys(keys), nil
	}
}

func (e *Etcd) list(ctx context.Context, prefix string) ([]Key, error) {
	var keys []Key
	end := clientv3.GetPrefixRangeEnd(e.config.Prefix + prefix)
	next, revision := e.config.Prefix+prefix, int64(0)
	for {
		r, err := e.read(ctx, next, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(etcdPage), clientv3.WithRev(revision))
		if err != nil {
			return nil, err
		}
		for _, kv := range r.Kvs {
			keys = append(keys, Key{strings.TrimPrefix(string(kv.Key), e.config.Prefix), Version(kv.ModRevision)})
		}
		if !r.More || len(r.Kvs) == 0 {
			return keys, nil
		}
		next = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
		if revision == 0 {
			revision = r.Header.Revision
		}
	}
}

// Watch waits for etcd to tell. After everything that ends the stream (no leader, a member that is gone, a revision that
// is forgotten) it looks by itself and asks to be told again.
func (e *Etcd) Watch(ctx context.Context, key string, known Version) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	var trouble error
	for {
		r, err := e.read(ctx, e.config.Prefix+key)
		if err == nil {
			if version(r.Kvs) != known {
				return nil
			}
			err = e.wait(ctx, key, r.Header.Revision+1)
			if err == nil {
				trouble = nil
				continue
			}
		}
		if errors.Is(err, errClosed) {
			return e.fail(err)
		}
		if ctx.Err() == nil {
			trouble = e.fail(err)
		}
		if err := pause(ctx, trouble); err != nil {
			return err
		}
	}
}

// version returns the version of a key that was read, or 0 when nothing is there.
func version(kvs []*mvccpb.KeyValue) Version {
	if len(kvs) == 0 {
		return 0
	}
	return Version(kvs[0].ModRevision)
}

// wait returns nil when something has happened to the key since a revision, or the reason why it cannot be known.
func (e *Etcd) wait(ctx context.Context, key string, since int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	for r := range c.Watch(clientv3.WithRequireLeader(ctx), e.config.Prefix+key, clientv3.WithRev(since)) {
		if err := r.Err(); err != nil {
			return err
		}
		if len(r.Events) > 0 {
			return nil
		}
	}
	return errors.New("the stream of its watch has ended")
}

// String names the endpoints.
func (e *Etcd) String() string { return "etcd at " + strings.Join(e.config.Endpoints, ", ") }

// Close ends the connections and every call. The store cannot be used afterwards.
func (e *Etcd) Close() error {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	e.closed = true
	if e.client == nil {
		return nil
	}
	e.end()
	e.client.Close() // it returns the error of the context that was ended
	e.client = nil
	return nil
}

// connect returns the client. It opens it when it is first needed; that takes an answer of etcd when there is a password.
func (e *Etcd) connect(ctx context.Context) (*clientv3.Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if e.closed {
		return nil, errClosed
	}
	if e.client != nil {
		return e.client, nil
	}
	quiet()
	listened, why := listening(context.Background())
	life, end := context.WithCancel(listened)
	config := clientv3.Config{
		Endpoints: e.config.Endpoints, TLS: e.config.TLS, Context: life, Logger: zap.NewNop(),
		DialTimeout: e.config.Timeout, DialKeepAliveTime: etcdKeepAlive, DialKeepAliveTimeout: etcdKeepAliveTimeout,
		MaxCallRecvMsgSize: etcdAnswer, DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(listen)},
	}
	if e.config.Username != "" {
		password, err := e.config.Password()
		if err != nil {
			end()
			return nil, fmt.Errorf("log in as the user %q: %w", e.config.Username, err)
		}
		config.Username, config.Password = e.config.Username, string(password)
	}
	stay := context.AfterFunc(ctx, end) // New knows no context of a call
	client, err := clientv3.New(config)
	if !stay() {
		if err == nil {
			client.Close()
		}
		err = ctx.Err()
	}
	if err != nil {
		end()
		return nil, why.of(err)
	}
	e.client, e.end = client, end
	return client, nil
}

// quiet keeps gRPC from writing errors to stderr by itself: they are returned to who called.
var quiet = sync.OnceFunc(func() { grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) })

// read gets keys. When no answer comes in a third of the time it asks once more: calls go to the members in turn, so
// that one which hangs does not make etcd look as if it were away.
func (e *Etcd) read(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout)
	defer cancel()
	c, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	ctx, why := listening(ctx)
	first, cancelFirst := context.WithTimeout(ctx, e.config.Timeout/3)
	defer cancelFirst()
	r, err := c.Get(first, key, options...)
	if err != nil && first.Err() != nil && ctx.Err() == nil {
		r, err = c.Get(ctx, key, options...)
	}
	return r, why.of(err)
}

// A reason is why the last try of a call reached nobody. The client tries until the time is over, and then says only that
// it is; that the connection is refused, or that a certificate is not trusted, is what has to be known.
type reason struct{ text atomic.Pointer[string] }

type reasonKey struct{}

// listening returns a context whose calls leave their reason.
func listening(ctx context.Context) (context.Context, *reason) {
	r := new(reason)
	return context.WithValue(ctx, reasonKey{}, r), r
}

// listen is called around every try. A try that waits for a connection until the time is over says of the last attempt
// at one why it failed.
func listen(ctx context.Context, method string, request, reply any, c *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := call(ctx, method, request, reply, c, options...)
	r, ok := ctx.Value(reasonKey{}).(*reason)
	if !ok || err == nil {
		return err
	}
	message := status.Convert(err).Message()
	_, attempt, waited := strings.Cut(message, "latest balancer error: ")
	if status.Code(err) == codes.Unavailable {
		attempt, waited = message, true
	}
	if waited {
		text := plain(attempt)
		r.text.Store(&text)
	}
	return err
}

// plain takes what gRPC has put around a message away:
//
//	connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"
func plain(text string) string {
	for {
		_, inner, ok := strings.Cut(text, "desc = ")
		if !ok {
			break
		}
		text = inner
		if unquoted, err := strconv.Unquote(inner); err == nil {
			text = unquoted
		}
	}
	return strings.TrimPrefix(strings.TrimPrefix(text, "transport: "), "Error while dialing: ")
}

// of returns err, with the reason when err is that the time was over.
func (r *reason) of(err error) error {
	if err == nil {
		return nil
	}
	err = late(err)
	if text := r.text.Load(); text != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return &unreached{*text, err}
	}
	return err
}

// late makes of the ways in which the client says that the time was over the one of its context.
func late(err error) error {
	var its rpctypes.EtcdError
	code := status.Code(err)
	if errors.As(err, &its) {
		code = its.Code()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return err
	case code == codes.DeadlineExceeded, strings.HasSuffix(err.Error(), context.DeadlineExceeded.Error()): // a member's, of version 3.4
		return context.DeadlineExceeded
	case code == codes.Canceled:
		return context.Canceled
	}
	return err
}

// An unreached is that the time was over, and why nobody was reached.
type unreached struct {
	cause string
	err   error
}

func (u *unreached) Error() string { return u.cause }
func (u *unreached) Unwrap() error { return u.err }

// fail says in words why etcd could not be used.
func (e *Etcd) fail(err error) error {
	var cause, remedy string
	var nobody *unreached
	switch {
	case errors.As(err, &nobody):
		if cause = nobody.cause; !strings.HasPrefix(cause, "authentication handshake failed") {
			remedy = "does it run, and is this the right address?"
		}
	case errors.Is(err, rpctypes.ErrNoSpace):
		cause, remedy = "its database is full", "compact and defragment it, then etcdctl alarm disarm"
	case errors.Is(err, rpctypes.ErrAuthFailed):
		cause = fmt.Sprintf("it refuses the user %q or his password", e.config.Username)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		cause, remedy = "it wants a user", "give the store a username and a password"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		cause, remedy = fmt.Sprintf("the user %q may not do this", e.config.Username), "give his role readwrite on the keys "+e.config.Prefix
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost):
		cause, remedy = "it has no leader", "do more than half of its members run?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		cause, remedy = ended(err), "do more than half of its members run?"
	default:
		cause = err.Error()
		if s, ok := status.FromError(err); ok {
			cause = plain(s.Message())
		}
	}
	return &unusable{e.String(), cause, remedy, err}
}
