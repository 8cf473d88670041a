# One image for workers and servers; 10001:10001 is who it runs as. Nothing in it has to be writable:
#
#     docker build --tag vidgen .
#     docker run --rm --read-only --env-file .env vidgen                     a worker
#     docker run --rm --read-only --env-file .env vidgen vidgen serve        a server
#     docker run --rm --read-only --env-file .env vidgen start-worker        a worker, after a look at all it needs
#     docker build --target simulators --tag vidgen-simulators .             with what `compose.yaml` has for its demo
#
# Secrets come at run time: as variables, or better as files of VIDGEN_SECRETS_DIR. None is needed to build.
#
# Everything of Python is pinned with hashes. The base is pinned by its tag: a digest has to be looked up where a
# registry can be asked (`docker buildx imagetools inspect python:3.13-slim-bookworm`) and given as
# `--build-arg PYTHON=3.13-slim-bookworm@sha256:…`.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY deploy/requirements-build.lock deploy/requirements-image.lock deploy/
# The environment that is copied has no pip: what cannot be installed later need not be watched.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement deploy/requirements-build.lock \
    && python -m venv --without-pip /opt/vidgen \
    && /opt/build/bin/pip --python /opt/vidgen install --require-hashes --only-binary :all: \
        --requirement deploy/requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY vidgen vidgen
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/vidgen install --no-deps --no-index /wheels/*.whl

FROM build AS build-simulators
COPY deploy/requirements.lock deploy/
RUN /opt/build/bin/pip --python /opt/vidgen install --require-hashes --only-binary :all: \
    --requirement deploy/requirements.lock

FROM python:${PYTHON} AS system
RUN groupadd --system --gid 10001 vidgen \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin vidgen
COPY --chmod=755 deploy/start-worker.sh /usr/local/bin/start-worker
ENV PATH=/opt/vidgen/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LOG_FORMAT=json
WORKDIR /opt/vidgen
USER 10001:10001
EXPOSE 3000
STOPSIGNAL SIGTERM
# Of worker and server alike: both answer on VIDGEN_HTTP_PORT. A worker may wait 30 s for its servers.
HEALTHCHECK --interval=15s --timeout=10s --start-period=45s --retries=3 CMD ["vidgen", "health"]
# The same worker as `arq vidgen.worker.WorkerSettings`, which begins its log with lines of arq's own that are no JSON.
CMD ["vidgen", "worker"]

FROM system AS simulators
COPY --from=build-simulators /opt/vidgen /opt/vidgen
EXPOSE 8787
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8787/_simulator/bill', timeout=4)"]
CMD ["python", "-m", "vidgen.simulator", "--host", "0.0.0.0", "--port", "8787", "--origin", "http://simulators:8787"]

FROM system AS vidgen
COPY --from=build /opt/vidgen /opt/vidgen
