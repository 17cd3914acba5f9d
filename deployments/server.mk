# The service: a Prefect server, a worker and the deployments. Each command stays in its terminal; stop it with Ctrl-C.
# State lies where Prefect keeps it (PREFECT_HOME, by default ~/.prefect), in SQLite.
BIN      ?= .venv/bin
PREFECT  := $(BIN)/prefect
POOL     := image-longitudinal
API_PORT ?= 4200

.PHONY: server worker deploy

# Without an address, Prefect would start a temporary server of its own that nobody else sees.
worker deploy: export PREFECT_API_URL ?= http://127.0.0.1:$(API_PORT)/api

server: $(READY) ## start the Prefect server and its pages on http://127.0.0.1:4200 (API_PORT=...)
	PREFECT_SERVER_ANALYTICS_ENABLED=false $(PREFECT) server start --host 127.0.0.1 --port $(API_PORT)

worker: $(READY) ## start a worker that runs what is asked of the server
	$(PREFECT) worker start --pool $(POOL) --type process

deploy: $(READY) ## tell the server about the flows (again after changing their parameters)
	$(PREFECT) work-pool inspect $(POOL) >/dev/null 2>&1 || $(PREFECT) work-pool create --type process $(POOL)
	$(PREFECT) --no-prompt deploy --all --prefect-file deployments/prefect.yaml
