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
PIDS     := .run

.PHONY: server worker deploy stop

# Without an address, Prefect would start a temporary server.
worker deploy: export PREFECT_API_URL ?= http://127.0.0.1:$(API_PORT)/api
server worker deploy: export DO_NOT_TRACK := 1
server: export PREFECT_SERVER_ANALYTICS_ENABLED := false
ifneq ($(DATABASE),)
server: export PREFECT_SERVER_DATABASE_CONNECTION_URL := $(DATABASE)
endif
ifneq ($(PREFECT_API_AUTH_STRING),)
server: export PREFECT_SERVER_API_AUTH_STRING ?= $(PREFECT_API_AUTH_STRING)
endif
deploy: export SCANS := $(SCANS)
deploy: export PRESET := $(PRESET)
deploy: export HEAVY_POOL := $(HEAVY_POOL)

# What names a process for good: boot, PID namespace and start, besides its number, which others get too. exec keeps all.
PLACE := echo $$(cat /proc/sys/kernel/random/boot_id) $$(readlink /proc/self/ns/pid)
START := sed 's/.*) //' /proc/$$pid/stat | cut -d' ' -f20

server: $(READY) ## start the Prefect server and its pages on http://127.0.0.1:4200 (API_PORT=, DATABASE=)
	@mkdir -p $(PIDS) && pid=$$$$; echo $$pid $$($(START)) $$($(PLACE)) > $(PIDS)/server-$(API_PORT) && exec $(BIN)/python -m image_longitudinal.deployments.server --host $(API_HOST) --port $(API_PORT)

worker: $(READY) ## start a worker for the runs of a pool (POOL=cpu, gpu or shards; one per GPU; LIMIT= runs at a time)
	@mkdir -p $(PIDS) && pid=$$$$; echo $$pid $$($(START)) $$($(PLACE)) > $(PIDS)/worker-$$$$ && exec $(PREFECT) worker start --pool $(POOL) --type process $(if $(LIMIT),--limit $(LIMIT))

deploy: $(READY) ## register flows, pools, limits, schedules and automations with the server (SCANS=, PRESET=, HEAVY_POOL=)
	@$(BIN)/python -m image_longitudinal.deployments.deploy

stop: ## stop workers and server that were started from this folder; runs continue from their shards later
	@for file in $(PIDS)/worker-* $(PIDS)/server-*; do \
	  [ -e "$$file" ] || continue; read -r pid start boot namespace < "$$file"; here=$$($(PLACE)); \
	  case "$$boot $$namespace" in "$$here") ;; "$${here% *} "*) \
	    echo "left $${file#$(PIDS)/}, which was started in another container: stop it there"; continue;; \
	  *) pid=; esac; \
	  if [ -n "$$pid" ] && [ "$$($(START) 2>/dev/null)" = "$$start" ]; then kill $$pid; \
	    for second in $$(seq 40); do kill -0 $$pid 2>/dev/null || break; sleep 1; done; \
	    if kill -0 $$pid 2>/dev/null; then pkill -KILL -P $$pid; kill -KILL $$pid; \
	      echo "killed $${file#$(PIDS)/}, which did not end within 40 seconds"; \
	    else echo "stopped $${file#$(PIDS)/}"; fi; fi; rm -f "$$file"; \
	done
