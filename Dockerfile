# One image, three commands: web, receiver, worker. Its steps are the scripts that a fresh machine
# runs (deploy/), so what the tests prove of those holds here.
FROM debian:12-slim

WORKDIR /app
COPY deploy/debian-packages deploy/install-debian-packages deploy/
RUN deploy/install-debian-packages run && rm -rf /var/lib/apt/lists/*

COPY requirements.txt ./
COPY deploy/constraints.txt deploy/install-python deploy/
RUN deploy/install-python

COPY . ./
RUN .venv/bin/python -m compileall -q router ingest dicomweb && \
    useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin router && \
    install -d -o router -g router -m 0750 /data

USER router
ENV PYTHONUNBUFFERED=1 \
    ROUTER_ENV=production \
    ROUTER_DATA_DIR=/data \
    ROUTER_HTTP_BIND=0.0.0.0 \
    ROUTER_DIMSE_BIND=0.0.0.0
VOLUME /data
EXPOSE 8080 11112
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 \
    CMD [".venv/bin/python", "deploy/healthcheck"]
ENTRYPOINT [".venv/bin/python", "manage.py"]
CMD ["web"]
