# The service: a Prefect server, workers and the deployments. Server and workers run in the foreground until Ctrl-C or
# `make stop`. State is in PREFECT_HOME (by default ~/.prefect), in SQLite, or in PostgreSQL with
#   make server DATABASE=postgresql+asyncpg://user@host/database        (the password belongs in ~/.pgpass)
# With PREFECT_API_AUTH_STRING=name:password in the environment the server requires it, and worker and deploy send it.
BIN      ?= .venv/bin
PREFECT  := $(BIN)/prefect
POOL     ?= cpu
LIMIT    ?= $(if $(filter shards,$(POOL)),1)
API_HOST ?= 127.0.0.1
API_PORT ?= 4200
DATABASE ?=
SILENCE  ?=
RESTARTS ?=
DEPLOYMENT ?= demo
PIDS     := .run

.PHONY: server worker deploy run backup restore stop

# Without an address, Prefect would start a temporary server.
worker deploy run: export PREFECT_API_URL ?= http://127.0.0.1:$(API_PORT)/api
server worker deploy run: export DO_NOT_TRACK := 1
server: export PREFECT_SERVER_ANALYTICS_ENABLED := false
# Leases of slots outlive the server; a killed holder's slot is free after 80 seconds, and who waits asks within 10 more.
server: export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE := image_longitudinal.deployments.leases
server: export PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS := 5
server: export PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS := 10
server: export IMAGE_LONGITUDINAL_SILENCE := $(SILENCE)
server: export IMAGE_LONGITUDINAL_RESTARTS := $(RESTARTS)
ifneq ($(METRICS),)
server: export PREFECT_SERVER_METRICS_ENABLED := true
endif
ifneq ($(LOGS),)
server worker: export PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER := $(LOGS)
endif
# Prefect's 5 and 10 seconds are too few for PostgreSQL on a busy host.
server: export PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT ?= 60
server: export PREFECT_SERVER_DATABASE_TIMEOUT ?= 60
# Relative: the pages ask the server that they come from, on any port, through any tunnel or proxy.
server: export PREFECT_UI_API_URL := /api
ifneq ($(DATABASE),)
server backup restore: export PREFECT_SERVER_DATABASE_CONNECTION_URL := $(DATABASE)
endif
ifneq ($(PREFECT_API_AUTH_STRING),)
server: export PREFECT_SERVER_API_AUTH_STRING ?= $(PREFECT_API_AUTH_STRING)
endif
deploy: export SCANS := $(SCANS)
deploy: export PRESET := $(PRESET)
deploy: export HEAVY_POOL := $(HEAVY_POOL)
deploy: export TAKE_OVER := $(TAKE_OVER)
deploy: export ALERT_URL := $(ALERT_URL)
# Prefect's runner puts files into one folder below the temporary one: each account has its own.
worker: export TMPDIR := $(or $(TMPDIR),/tmp)/image-longitudinal-$(shell id -u)

# What names a process for good: boot, PID namespace and start, besides its number, which others get too. exec keeps all.
PLACE := echo $$(cat /proc/sys/kernel/random/boot_id) $$(readlink /proc/self/ns/pid)
START := sed 's/.*) //' /proc/$$pid/stat | cut -d' ' -f20

server: $(READY) ## start the Prefect server and its pages on http://127.0.0.1:4200 (API_PORT=, DATABASE=)
	@mkdir -p $(PIDS) && pid=$$$$; echo $$pid $$($(START)) $$($(PLACE)) > $(PIDS)/server-$(API_PORT) && exec $(BIN)/python -m image_longitudinal.deployments.server --host $(API_HOST) --port $(API_PORT)

worker: $(READY) ## start a worker for the runs of a pool (POOL=cpu, gpu or shards; one per GPU; LIMIT= runs at a time; HEALTH=1 answers on port 8080)
	@mkdir -p $(PIDS) && mkdir -p -m 700 $(TMPDIR) && pid=$$$$; echo $$pid $$($(START)) $$($(PLACE)) > $(PIDS)/worker-$$$$ && exec $(PREFECT) worker start --pool $(POOL) --type process $(if $(LIMIT),--limit $(LIMIT)) $(if $(HEALTH),--with-healthcheck)

deploy: $(READY) ## register flows, pools, limits, schedules and automations with the server (SCANS=, PRESET=, HEAVY_POOL=)
	@$(BIN)/python -m image_longitudinal.deployments.deploy

run: $(READY) ## start a run of a deployment (DEPLOYMENT=demo, ARGS="--param key=value")
	@$(BIN)/image-longitudinal run $(DEPLOYMENT) $(ARGS)

FILE     ?= prefect-$(shell date +%F).backup
backup: $(READY) ## copy the server's database into FILE=, also while the server runs (DATABASE= as for make server)
	@$(BIN)/python -m image_longitudinal.deployments.backup backup $(FILE)

restore: $(READY) ## replace the server's database by FILE=, while no server runs (DATABASE= as for make server)
	@$(BIN)/python -m image_longitudinal.deployments.backup restore $(FILE)

# All workers are told to end before any is waited for: five take as long as one, half a minute. Then the server, to which
# they report their last runs.
stop: ## stop workers and server that were started from this folder; runs continue from their shards later
	@stopping=; for file in $(PIDS)/worker-* $(PIDS)/server-*; do \
	  [ -e "$$file" ] || continue; read -r pid start boot namespace < "$$file"; here=$$($(PLACE)); \
	  case "$$boot $$namespace" in "$$here") ;; "$${here% *} "*) \
	    echo "left $${file#$(PIDS)/}, which was started in another container: stop it there"; continue;; \
	  *) pid=; esac; \
	  if [ -n "$$pid" ] && [ "$$($(START) 2>/dev/null)" = "$$start" ]; then \
	    case "$$file" in */worker-*) kill $$pid;; esac; stopping="$$stopping $$pid:$$file"; \
	  else rm -f "$$file"; fi; \
	done; second=0; \
	for one in $$stopping; do pid=$${one%%:*}; file=$${one#*:}; \
	  case "$$file" in */server-*) kill $$pid 2>/dev/null; [ $$second -lt 30 ] || second=30;; esac; \
	  while kill -0 $$pid 2>/dev/null && [ $$second -lt 40 ]; do sleep 1; second=$$((second + 1)); done; \
	  if kill -0 $$pid 2>/dev/null; then pkill -KILL -P $$pid; kill -KILL $$pid; \
	    echo "killed $${file#$(PIDS)/}, which did not end within 40 seconds"; \
	  else echo "stopped $${file#$(PIDS)/}"; fi; rm -f "$$file"; \
	done
