# converge: what a newcomer does with the source. Every target installs what it needs, and says so.

VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),$(shell cat VERSION 2>/dev/null),devel)
PREFIX  ?= /usr/local
DESTDIR ?=

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.1
LDFLAGS     = -s -w -X main.version=$(VERSION)

export CGO_ENABLED = 0

# The version comes from git describe; go itself would refuse a clone that belongs to somebody else.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# The go command has to be there before any of these is made.
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
export PATH := $(or $(shell sh fixtures/go.sh),$(error there is no go command)):$(PATH)
endif

.PHONY: help build test race check bench matrix demo lab lab-shell lab-down install clean servers tools

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

build: ## build bin/converge
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/converge ./cmd/converge
	@bin/converge version

test: tools servers ## run every test but the matrix, with real PostgreSQL servers (as root: all of it)
	go test -timeout 60m $$(go list ./... | grep -v -e /fixtures/matrix -e /fixtures/lab -e /fixtures/environment -e /engine/store)
	go test -timeout 60m -p 1 ./engine/store ./fixtures/lab/... ./fixtures/environment

race: tools servers ## run the tests with the race detector, and converge built with it in the lab; needs gcc
	@sh fixtures/need.sh gcc:gcc /usr/include/stdlib.h:libc6-dev
	CGO_ENABLED=1 go test -race -timeout 60m $$(go list ./... | grep -v -e /fixtures/matrix -e /fixtures/faults -e /fixtures/bench -e /fixtures/lab -e /fixtures/environment -e /engine/store)
	CGO_ENABLED=1 CONVERGE_RACE=1 go test -race -timeout 60m -p 1 ./engine/store ./fixtures/lab/... ./fixtures/environment

check: ## gofmt, go vet, staticcheck, the house rules, the recipes' form and the documentation
	@unformatted=$$(gofmt -l cmd engine fixtures recipes resources); test -z "$$unformatted" || \
		{ echo "gofmt -w would change:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go vet -tags bench,faultpoints ./...
	go run $(STATICCHECK) ./...
	go test -count=1 -run '^TestHouse' ./cmd/converge
	go test -count=1 -run '^TestReference' ./engine/recipe ./resources
	go run ./cmd/converge fmt --check recipes
	go run ./cmd/converge validate

bench: tools servers ## measure speed; docs/performance.md says what the figures mean
	go test -tags bench -count=1 -run '^Test(Table|Nodes)$$' -v -timeout 15m ./fixtures/bench
	go test -run '^$$' -bench . -timeout 30m ./engine/... ./resources/...

matrix: tools servers ## do the main job on PostgreSQL 10 to 18
	go test -count=1 -v -timeout 15m ./fixtures/matrix/...

demo: build ## plan, apply, status and psql on a throw-away PostgreSQL; needs root, changes nothing on the machine
	bash fixtures/demo/demo.sh bin/converge

lab: tools build ## real hosts on this machine: db1 db2 db3 app1 app2 util1, an etcd, and op for the operator (root)
	go run ./fixtures/lab/cmd up --converge bin/converge

lab-shell: ## look around on one of them: make lab-shell NODE=db2
	@go run ./fixtures/lab/cmd shell $(or $(NODE),op)

lab-down: ## take the lab down
	go run ./fixtures/lab/cmd down

install: build ## put converge into $(PREFIX)/bin
	install -D -m 0755 bin/converge $(DESTDIR)$(PREFIX)/bin/converge

clean: ## remove what build has made
	rm -rf bin dist

# The programs that tests call.
tools:
	@sh fixtures/need.sh git:git openssl:openssl psql:postgresql-client pg_ctlcluster:postgresql-common \
		'/usr/lib/postgresql/*/bin/postgres:postgresql' strace:strace ip:iproute2 unshare:util-linux mount:mount \
		setfacl:acl setfattr:attr mkfs.ext4:e2fsprogs chattr:e2fsprogs npm:npm \
		/usr/sbin/sshd:openssh-server ssh:openssh-client etcd:etcd-server etcdctl:etcd-client nsenter:util-linux \
		setpriv:util-linux tcpdump:tcpdump javac:default-jdk-headless java:default-jre-headless \
		/usr/share/java/postgresql.jar:libpostgresql-jdbc-java /usr/lib/python3/dist-packages/psycopg2:python3-psycopg2

# The PostgreSQL servers that tests run.
servers: tools
	@go run ./fixtures/pgserver/install >/dev/null
