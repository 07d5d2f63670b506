# Every target is one command; `make` alone lists them.

PREFIX = /usr/local
DESTDIR =
BINARY = .build/release/postern
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
USERS = $(DESTDIR)$(PREFIX)/lib/sysusers.d
MANUAL = $(DESTDIR)$(PREFIX)/share/doc/postern

.DEFAULT_GOAL := help
.PHONY: help setup build run test check format conformance ledger outage tls simulate mutants crash fuzz fuzz-long sanitize hostile soak bench bench-quick micro profile install uninstall clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages that building and testing need
	@dev/setup

build: ## build .build/release/postern and postern-bench
	@dev/build

run: ## run a gateway for demo.test with its data in ./var, and a primary that prints what arrives
	@dev/run

test: ## everything CI runs: unit tests, then the built server against other mail servers and kill -9
	@dev/test

check: ## what to run before a commit: formatting, no warnings, then `make test`
	@dev/check

format: ## format the Swift sources
	@dev/format

conformance: ## every sender and every primary, plain and TLS, bytes compared
	@dev/build && python3 Tests/Conformance/matrix.py

ledger: ## 20 rounds of kill -9 under two-way load; every 250 must arrive
	@dev/build && python3 Tests/Crash/ledger.py --rounds 20

outage: ## 300 gateways, primaries down, 30,000 messages, kill -9, primaries back
	@dev/build && python3 Tests/Crash/outage.py

simulate: ## SEEDS=n days in a simulated world (SEED=k: one of them again): faults everywhere, nothing lost
	@$(if $(SEED),dev/simulate --seed $(SEED),dev/simulate $(or $(SEEDS),1000))

mutants: ## the engine broken on purpose, form by form: the simulation must notice each
	@dev/mutants

crash: ## ROUNDS=n of kill -9, then pauses, full disks, failing calls …: a ledger outside of every 250
	@dev/build && python3 Tests/Crash/crash.py --rounds $(or $(ROUNDS),50)

fuzz: ## every parser for 2 minutes
	@dev/fuzz --seconds 120

fuzz-long: ## every parser for 10 minutes
	@dev/fuzz --seconds 600

sanitize: ## the real threads under ThreadSanitizer, then everything under AddressSanitizer
	@dev/sanitize thread && dev/sanitize address

hostile: ## slow, deaf, greedy and malformed peers beside senders that must not notice
	@dev/build && python3 Tests/Hostile/hostile.py

soak: ## MESSAGES=n (a million) through the server: memory, descriptors and files as before
	@dev/build && python3 Tests/Soak/million.py --messages $(or $(MESSAGES),1000000)

tls: ## testssl.sh on the SMTP port, and what `forward.tls=verify` must refuse
	@dev/build && python3 Tests/Conformance/tls.py

bench: ## RUNS=n (5) beside Postfix, Exim and OpenSMTPD into Benchmarks/RESULTS.md; about half an hour, needs root
	@dev/build && python3 Benchmarks/peers/compare.py --runs $(or $(RUNS),5) --write Benchmarks/RESULTS.md

bench-quick: ## the ratios that matter, in less than 3 minutes (needs root)
	@dev/build && python3 Benchmarks/peers/compare.py --quick

micro: ## instructions and allocations of the hot parts, as expected? WRITE=1: expected from now on (valgrind)
	@dev/micro $(PARTS) $(if $(WRITE),--write)

profile: ## where a message's time goes: instructions, allocations, system calls, waits (valgrind, strace, root)
	@dev/build && python3 Benchmarks/profile/profile.py

# Building is not part of installing: `make build` as yourself, then `sudo make install`. With DESTDIR nothing outside it
# is touched, which is what packages want; user and folders are then made by sysusers.d and the unit.
install: ## install program, systemd unit, user, folders and a sample configuration (DESTDIR, PREFIX)
	@test -x $(BINARY) -a -x $(BINARY)-bench || { echo "$(BINARY) is not built: run 'make build' first" >&2; exit 1; }
	@test -n "$(DESTDIR)" || test "$$(id -u)" = 0 || { echo "installing needs root: 'sudo make install', or DESTDIR" >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin $(UNITS) $(USERS) $(MANUAL)/docs/decisions $(MANUAL)/docs/monitoring
	install -m 0755 $(BINARY) $(BINARY)-bench $(DESTDIR)$(PREFIX)/bin
	sed 's|/usr/local/|$(PREFIX)/|' systemd/postern.service > $(UNITS)/postern.service
	chmod 0644 $(UNITS)/postern.service
	install -m 0644 systemd/postern.sysusers $(USERS)/postern.conf
	install -m 0644 README.md CHANGELOG.md LICENSE systemd/postern.yaml $(MANUAL)
	install -m 0644 docs/*.md docs/*.tsv $(MANUAL)/docs
	install -m 0644 docs/monitoring/* $(MANUAL)/docs/monitoring
	install -m 0644 docs/decisions/*.md $(MANUAL)/docs/decisions
	@dev/install-host '$(DESTDIR)'

uninstall: ## remove program and unit; configuration, mail and user stay
	@dev/uninstall-host '$(DESTDIR)'
	rm -f $(DESTDIR)$(PREFIX)/bin/postern $(DESTDIR)$(PREFIX)/bin/postern-bench $(UNITS)/postern.service $(USERS)/postern.conf
	rm -rf $(MANUAL)
	@echo "left in place: /etc/postern, /var/lib/postern and the user postern"

clean: ## remove what was built; ./var and installed peers stay
	rm -rf .build
