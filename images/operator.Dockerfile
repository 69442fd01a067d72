# Roost's operator. Build from the root of the repository:
#   docker build -f images/operator.Dockerfile -t roost-operator .
FROM docker.io/library/python:3.11-slim-bookworm AS build
COPY images/operator.lock /tmp/requirements.lock
RUN python -m venv /opt/roost \
 && /opt/roost/bin/python -m pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes -r /tmp/requirements.lock
COPY proto/roost /opt/roost/lib/python3.11/site-packages/roost
COPY gateway/roost_gateway /opt/roost/lib/python3.11/site-packages/roost_gateway
COPY operator/roost_operator /opt/roost/lib/python3.11/site-packages/roost_operator
COPY worker/roost_worker /opt/roost/lib/python3.11/site-packages/roost_worker
RUN /opt/roost/bin/python -m compileall -q /opt/roost/lib/python3.11/site-packages/roost*

FROM docker.io/library/python:3.11-slim-bookworm
COPY --from=build /opt/roost /opt/roost
ENV PATH=/opt/roost/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "roost_operator"]
