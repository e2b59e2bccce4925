package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests work on real folders, a real PostgreSQL and a real etcd. What needs a mount runs again inside `unshare -m`, and
// what needs a process of its own (to race with, to kill) runs this binary as a helper.

func TestMain(m *testing.M) {
	if role := os.Getenv("STORE_HELPER"); role != "" {
		os.Exit(helper(role))
	}
	os.Exit(m.Run())
}

// need stops a test that cannot run here: skipped on a developer's machine, failed in CI.
func need(t testing.TB, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") != "":
		t.Fatalf("CI has to provide: %s", what)
	default:
		t.Skipf("needs %s", what)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks what an error is, and what it says.
func wantError(t testing.TB, err, is error, says ...string) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Fatalf("the error is %v, and should be: %v", err, is)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

// background is a context that ends before a test that hangs is noticed otherwise.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// soon checks that do ends in time.
func soon(t testing.TB, limit time.Duration, what string, do func()) {
	t.Helper()
	begin := time.Now()
	do()
	took := time.Since(begin)
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if took > limit {
		t.Errorf("%s took %v", what, took)
	}
}

func wants(t testing.TB, s Store, key, value string, v Version) {
	t.Helper()
	e, err := s.Get(background(t), key)
	check(t, err)
	if string(e.Value) != value || e.Version != v {
		t.Fatalf("at %s is %.40q, version %d; it should be %.40q, version %d", key, e.Value, e.Version, value, v)
	}
}

func create(t testing.TB, s Store, key, value string) Version {
	t.Helper()
	v, err := s.Create(background(t), key, []byte(value))
	check(t, err)
	return v
}

func swap(t testing.TB, s Store, key string, old Version, value string) Version {
	t.Helper()
	v, err := s.Swap(background(t), key, old, []byte(value))
	check(t, err)
	return v
}

// conform is what every store has to do. open opens the same store again and again, each time as another node would;
// a run's keys are its own.
func conform(t *testing.T, open func(testing.TB) Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, func(testing.TB) Store)
	}{
		{"Nothing", conformNothing}, {"Entry", conformEntry}, {"Keys", conformKeys}, {"Values", conformValues}, {"List", conformList},
		{"Watch", conformWatch}, {"WatchMany", conformWatchMany}, {"Ended", conformEnded}, {"Close", conformClose},
		{"CreateRace", conformCreateRace}, {"SwapRace", conformSwapRace}, {"Counter", conformCounter},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open) })
	}
}

func conformNothing(t *testing.T, open func(testing.TB) Store) {
	s, ctx := open(t), background(t)
	_, err := s.Get(ctx, "none/at/all")
	wantError(t, err, ErrNotFound, "none/at/all", s.String())
	for _, old := range []Version{-1, 0, 1, 7} {
		_, err = s.Swap(ctx, "none/at/all", old, []byte("x"))
		wantError(t, err, ErrChanged, "none/at/all", s.String())
	}
	_, err = s.Get(ctx, "none/at/all")
	wantError(t, err, ErrNotFound)
	for _, prefix := range []string{"none/", "none/at/"} {
		if keys, err := s.List(ctx, prefix); err != nil || len(keys) != 0 {
			t.Errorf("List %q: %v %v", prefix, keys, err)
		}
	}
}

func conformEntry(t *testing.T, open func(testing.TB) Store) {
	a, b, ctx := open(t), open(t), background(t)
	versions := []Version{create(t, a, "entry/one", "value 1")}
	wants(t, b, "entry/one", "value 1", versions[0])
	_, err := b.Create(ctx, "entry/one", []byte("other"))
	wantError(t, err, ErrExists, "entry/one", b.String())
	for i := 2; i <= 20; i++ {
		last := versions[len(versions)-1]
		v := swap(t, []Store{a, b}[i%2], "entry/one", last, fmt.Sprint("value ", i))
		if v <= last {
			t.Fatalf("version %d after %d", v, last)
		}
		versions = append(versions, v)
		for _, stale := range append(slices.Clone(versions[:len(versions)-1]), v+1, v+100) {
			_, err := b.Swap(ctx, "entry/one", stale, []byte("other"))
			wantError(t, err, ErrChanged, "entry/one")
		}
		_, err = a.Create(ctx, "entry/one", []byte("other"))
		wantError(t, err, ErrExists)
		wants(t, a, "entry/one", fmt.Sprint("value ", i), v)
		wants(t, b, "entry/one", fmt.Sprint("value ", i), v)
	}
	// The same value again is another version.
	last := versions[len(versions)-1]
	if v := swap(t, a, "entry/one", last, "value 20"); v <= last {
		t.Errorf("version %d after %d", v, last)
	}
}

func conformKeys(t *testing.T, open func(testing.TB) Store) {
	s, ctx := open(t), background(t)
	long := strings.Repeat("k", maxPart)
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../b", ".store", "a/.new-1", "@1", "a/@1", "a b", "a\nb", "a\x00b", "ä", "a%", "a*", "a'b", `a"b`, `a\b`, "a:b",
		long + "k", strings.Repeat("ab/", 171) + "a",
	} {
		_, err := s.Get(ctx, key)
		_, err2 := s.Create(ctx, key, nil)
		_, err3 := s.Swap(ctx, key, 1, nil)
		for _, err := range []error{err, err2, err3, s.Watch(ctx, key, 1)} {
			if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrChanged) || errors.Is(err, ErrUnavailable) {
				t.Errorf("key %q: %v", key, err)
			}
		}
	}
	for _, prefix := range []string{"a", "/", "a//", "/a/", "../", "./", "a/../", "%/", "a/b", "@1/"} {
		if keys, err := s.List(ctx, prefix); err == nil {
			t.Errorf("prefix %q: %v", prefix, keys)
		}
	}
	good := []string{"keys", "keys/1", "keys/1/2", "keys/-", "keys/_", "keys/-rf", "keys/A.b-c_d", "keys/a", "keys/1.2.3.4", "keys/" + long, long + "/" + long, "keys/" + strings.Repeat("a/", 253) + "b"}
	for i, key := range good {
		create(t, s, key, fmt.Sprint(i))
	}
	for i, key := range good {
		e, err := s.Get(ctx, key)
		check(t, err)
		if string(e.Value) != fmt.Sprint(i) {
			t.Errorf("at %q is %q", key, e.Value)
		}
	}
}

func conformValues(t *testing.T, open func(testing.TB) Store) {
	a, b, ctx := open(t), open(t), background(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	large := make([]byte, MaxValue)
	for i := range large {
		large[i] = byte(rand.IntN(256))
	}
	var v Version
	for i, value := range [][]byte{nil, {}, {0}, []byte(`\x00'"`), all, large[:MaxValue-1], large, nil} {
		var err error
		if i == 0 {
			v, err = a.Create(ctx, "values/one", value)
		} else {
			v, err = a.Swap(ctx, "values/one", v, value)
		}
		check(t, err)
		e, err := b.Get(ctx, "values/one")
		check(t, err)
		if !bytes.Equal(e.Value, value) || e.Version != v {
			t.Errorf("%d bytes of version %d came back as %d of version %d", len(value), v, len(e.Value), e.Version)
		}
	}
	create(t, a, "values/large", string(large))
	tooLarge := append(large, 0)
	_, err := a.Swap(ctx, "values/one", v, tooLarge)
	_, err2 := a.Create(ctx, "values/two", tooLarge)
	for _, err := range []error{err, err2} {
		if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "1048576") {
			t.Errorf("a value that is too large: %v", err)
		}
	}
	wants(t, b, "values/one", "", v)
	_, err = b.Get(ctx, "values/two")
	wantError(t, err, ErrNotFound)
}

func conformList(t *testing.T, open func(testing.TB) Store) {
	a, b, ctx := open(t), open(t), background(t)
	want := map[string]Version{}
	for _, key := range []string{"list", "list-x", "list.x", "list0", "lists/x", "list/b", "list/a", "list/a/x", "list/a-x", "list/a.x", "list/a0", "list/B", "list/10", "list/9", "lis/t", "list/a/y/z", "list_/x"} {
		want[key] = create(t, a, key, key)
	}
	want["list/a"] = swap(t, a, "list/a", want["list/a"], "again")
	for _, prefix := range []string{"list/", "list/a/", "list/a/y/", "lis/", "lists/", "list/b/", "li/", "list0/", ""} {
		keys, err := b.List(ctx, prefix)
		check(t, err)
		var names []string
		for _, k := range keys {
			names = append(names, k.Name)
			if v, mine := want[k.Name]; mine && k.Version != v {
				t.Errorf("%s has version %d, and List says %d", k.Name, v, k.Version)
			}
			if !strings.HasPrefix(k.Name, prefix) {
				t.Errorf("List %q has %q", prefix, k.Name)
			}
		}
		if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("List %q is not sorted: %v", prefix, names)
		}
		for key := range want {
			if strings.HasPrefix(key, prefix) && !slices.Contains(names, key) {
				t.Errorf("List %q has no %q", prefix, key)
			}
		}
	}
	// More than a page, and keys that come while they are listed.
	const many = 2500
	if testing.Short() {
		return
	}
	for i := range many {
		create(t, a, fmt.Sprintf("many/%04d", i), "")
	}
	keys, err := b.List(ctx, "many/")
	check(t, err)
	for i, k := range keys {
		if k.Name != fmt.Sprintf("many/%04d", i) {
			t.Fatalf("key %d is %q", i, k.Name)
		}
	}
	if len(keys) != many {
		t.Errorf("%d keys of %d", len(keys), many)
	}
}

// watched watches in a goroutine.
func watched(ctx context.Context, s Store, key string, known Version) chan error {
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, key, known) }()
	return done
}

func conformWatch(t *testing.T, open func(testing.TB) Store) {
	a, b := open(t), open(t)
	ctx, cancel := context.WithCancel(background(t))
	defer cancel()
	quietFor := func(done chan error) {
		t.Helper()
		select {
		case err := <-done:
			t.Fatalf("the watch has ended: %v", err)
		case <-time.After(700 * time.Millisecond):
		}
	}
	wakes := func(done chan error) {
		t.Helper()
		select {
		case err := <-done:
			check(t, err)
		case <-time.After(3 * time.Second):
			t.Fatal("the watch does not wake")
		}
	}
	waiting := watched(ctx, b, "watch/one", 0)
	quietFor(waiting)
	create(t, a, "watch/two", "another key")
	create(t, a, "watch/one/below", "another key")
	quietFor(waiting)
	v := create(t, a, "watch/one", "x")
	wakes(waiting)

	waiting = watched(ctx, b, "watch/one", v)
	quietFor(waiting)
	v2 := swap(t, a, "watch/one", v, "y")
	wakes(waiting)
	wakes(watched(ctx, b, "watch/one", v))
	wakes(watched(ctx, b, "watch/one", 0))
	wakes(watched(ctx, b, "watch/one", v2+10))
	wakes(watched(ctx, b, "watch/none", 3))

	waiting = watched(ctx, b, "watch/one", v2)
	quietFor(waiting)
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("a watch that was ended: %v", err)
	}
	short, end := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer end()
	if err := b.Watch(short, "watch/none", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a watch whose time is over: %v", err)
	}
	if err := b.Watch(short, "watch/none", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a watch whose time was over: %v", err)
	}
}

// Nothing is missed: one goes from version to version while another writes.
func conformWatchMany(t *testing.T, open func(testing.TB) Store) {
	a, b, ctx := open(t), open(t), background(t)
	v := create(t, a, "watch/many", "")
	done := make(chan error, 1)
	go func() {
		known := Version(0)
		for range 1000 {
			if err := b.Watch(ctx, "watch/many", known); err != nil {
				done <- err
				return
			}
			e, err := b.Get(ctx, "watch/many")
			if err != nil || string(e.Value) == "end" || e.Version <= known {
				done <- err
				return
			}
			known = e.Version
		}
		done <- errors.New("it woke 1000 times")
	}()
	for i := range 40 {
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		v = swap(t, a, "watch/many", v, fmt.Sprint(i))
	}
	swap(t, a, "watch/many", v, "end")
	check(t, <-done)
}

func conformEnded(t *testing.T, open func(testing.TB) Store) {
	s := open(t)
	v := create(t, s, "ended/one", "x")
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Get(over, "ended/one")
	_, err2 := s.Create(over, "ended/two", nil)
	_, err3 := s.Swap(over, "ended/one", v, nil)
	_, err4 := s.List(over, "")
	for _, err := range []error{err, err2, err3, err4} {
		wantError(t, err, ErrUnavailable, s.String())
		wantError(t, err, context.Canceled)
	}
	wants(t, s, "ended/one", "x", v)
	_, err = s.Get(background(t), "ended/two")
	wantError(t, err, ErrNotFound)
}

func conformClose(t *testing.T, open func(testing.TB) Store) {
	a, b := open(t), open(t)
	v := create(t, a, "close/one", "x")
	ctx, cancel := context.WithCancel(background(t))
	defer cancel()
	waiting := watched(ctx, a, "close/one", v)
	wants(t, b, "close/one", "x", v)
	check(t, a.Close())
	check(t, a.Close())
	wants(t, b, "close/one", "x", v)
	cancel()
	if err := <-waiting; err == nil {
		t.Error("the watch of a closed store found something")
	}
	check(t, open(t).Close()) // never used
}

const (
	racers = 4
	races  = 1000
)

// race lets several nodes do the same thing at the same moment, round by round, and returns who won each: there is one.
func race(t *testing.T, open func(testing.TB) Store, try func(s Store, racer, round int) (bool, error)) []int {
	t.Helper()
	stores := make([]Store, racers)
	for i := range stores {
		stores[i] = open(t)
	}
	var winners []int
	var won [racers]int
	for round := range races {
		var wg sync.WaitGroup
		results, errs, start := make([]bool, racers), make([]error, racers), make(chan struct{})
		for i := range stores {
			wg.Go(func() {
				<-start
				results[i], errs[i] = try(stores[i], i, round)
			})
		}
		close(start)
		wg.Wait()
		check(t, errors.Join(errs...))
		winner := slices.Index(results, true)
		if winner < 0 || slices.Contains(results[winner+1:], true) {
			t.Fatalf("round %d: who won is %v", round, results)
		}
		won[winner]++
		winners = append(winners, winner)
	}
	t.Logf("%d races among %d nodes; won: %v", races, racers, won)
	return winners
}

// lost tells an error of one who lost from the others.
func lost(err, want error) (bool, error) {
	if errors.Is(err, want) {
		return false, nil
	}
	return err == nil, err
}

func conformCreateRace(t *testing.T, open func(testing.TB) Store) {
	ctx := background(t)
	winners := race(t, open, func(s Store, racer, round int) (bool, error) {
		_, err := s.Create(ctx, fmt.Sprintf("race/create/%d", round), []byte(strconv.Itoa(racer)))
		return lost(err, ErrExists)
	})
	s := open(t)
	for round, winner := range winners {
		e, err := s.Get(ctx, fmt.Sprintf("race/create/%d", round))
		check(t, err)
		if string(e.Value) != strconv.Itoa(winner) {
			t.Errorf("round %d was won by %d, and what is there is %s's", round, winner, e.Value)
		}
	}
}

func conformSwapRace(t *testing.T, open func(testing.TB) Store) {
	ctx, s := background(t), open(t)
	v := make([]Version, races+1) // each round's winner writes the next
	v[0] = create(t, s, "race/swap", "")
	race(t, open, func(s Store, racer, round int) (bool, error) {
		next, err := s.Swap(ctx, "race/swap", v[round], []byte(strconv.Itoa(racer)))
		won, err := lost(err, ErrChanged)
		if won {
			v[round+1] = next
		}
		return won, err
	})
	if !slices.IsSorted(v) || len(slices.Compact(v)) != races+1 {
		t.Errorf("versions that do not grow: %v", v)
	}
}

// count adds one to the number at a key until it has done so n times, and returns the versions that it got for it.
func count(ctx context.Context, s Store, key string, n int) ([]Version, error) {
	var got []Version
	for len(got) < n {
		e, err := s.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		number, err := strconv.Atoi(string(e.Value))
		if err != nil {
			return nil, fmt.Errorf("version %d is torn: %q", e.Version, e.Value)
		}
		v, err := s.Swap(ctx, key, e.Version, []byte(strconv.Itoa(number+1)))
		switch {
		case err == nil:
			got = append(got, v)
		case !errors.Is(err, ErrChanged):
			return nil, err
		}
	}
	return got, nil
}

// Nodes that add one to the same number lose none, and each version is of one of them.
func conformCounter(t *testing.T, open func(testing.TB) Store) {
	ctx, s := background(t), open(t)
	create(t, s, "counter", "0")
	const each = 50
	got := make([][]Version, racers)
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		mine := open(t)
		if i == 0 {
			mine = s // two goroutines of one node
		}
		wg.Go(func() { got[i], errs[i] = count(ctx, mine, "counter", each) })
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	counted(t, s, "counter", slices.Concat(got...), racers*each)
}

// counted checks the number at a key, and that no version was given twice.
func counted(t *testing.T, s Store, key string, versions []Version, want int) {
	t.Helper()
	e, err := s.Get(background(t), key)
	check(t, err)
	slices.Sort(versions)
	if string(e.Value) != strconv.Itoa(want) || len(versions) != want || len(slices.Compact(slices.Clone(versions))) != want || versions[want-1] != e.Version {
		t.Errorf("%s at version %d after %d additions with %d versions, the last %d", e.Value, e.Version, want, len(versions), versions[len(versions)-1])
	}
}

// helperCommand is this binary as another process.
func helperCommand(binary, role string, env ...string) *exec.Cmd {
	cmd := exec.Command(binary)
	cmd.Env = append(append(os.Environ(), "STORE_HELPER="+role), env...)
	return cmd
}

// The benchmarks: one key that is read, one that is swapped, and lists of two sizes.

func benchmarks(b *testing.B, s Store) {
	ctx := context.Background()
	value := make([]byte, 16<<10)
	v, err := s.Create(ctx, "bench/one", value)
	check(b, err)
	b.Run("Get", func(b *testing.B) {
		for b.Loop() {
			_, err := s.Get(ctx, "bench/one")
			check(b, err)
		}
	})
	b.Run("Swap", func(b *testing.B) {
		for b.Loop() {
			v, err = s.Swap(ctx, "bench/one", v, value)
			check(b, err)
		}
	})
	made := 0
	for _, n := range []int{1000, 10_000} {
		for ; made < n; made++ {
			_, err := s.Create(ctx, fmt.Sprintf("list/%05d", made), []byte("x"))
			check(b, err)
		}
		b.Run(fmt.Sprintf("List%d", n), func(b *testing.B) {
			for b.Loop() {
				keys, err := s.List(ctx, "list/")
				check(b, err)
				if len(keys) != n {
					b.Fatalf("%d keys", len(keys))
				}
			}
		})
	}
}
