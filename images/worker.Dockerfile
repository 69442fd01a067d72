# Roost's worker. Build from the root of the repository:
#   docker build -f images/worker.Dockerfile -t roost-worker .
FROM docker.io/library/python:3.11-slim-bookworm AS build
COPY images/worker.lock /tmp/requirements.lock
RUN python -m venv /opt/roost \
 && /opt/roost/bin/python -m pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes -r /tmp/requirements.lock
COPY proto/roost /opt/roost/lib/python3.11/site-packages/roost
COPY worker/roost_worker /opt/roost/lib/python3.11/site-packages/roost_worker
RUN /opt/roost/bin/python -m compileall -q /opt/roost/lib/python3.11/site-packages/roost*

# Not slim, for its compiler: kernels are compiled for the node's processor when a worker starts, and so is Triton's launcher.
FROM docker.io/library/python:3.11-bookworm
COPY --from=build /opt/roost /opt/roost
ENV PATH=/opt/roost/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    RAY_USAGE_STATS_ENABLED=0 ROOST_CACHE=/tmp/roost
USER 65532:65532
WORKDIR /tmp
# KubeRay gives the command (`ray start`); Serve then imports roost_worker.serve_app.
CMD ["ray", "start", "--help"]
