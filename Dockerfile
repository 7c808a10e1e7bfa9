# A node and the `ulos` command. Without a registry: `.ci/debian.sh ulos-debian`, then `--build-arg BASE=ulos-debian`.
ARG BASE=debian:12-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils ca-certificates python3-pip python3-venv
# pip takes all of a lock or nothing; uv takes from it the versions and hashes of what a node needs.
ARG UV=0.13.9
RUN pip install --no-cache-dir --break-system-packages uv==${UV}
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /source
COPY . .
# Compiled here, for nobody can write there later, and without the dates of the sources, which differ at each build.
RUN python3 -m venv --without-pip /opt/ulos-stream \
    && uv pip install --no-cache --python /opt/ulos-stream --only-binary :all: --no-binary ulos-stream \
        --constraint requirements.lock --build-constraint requirements.lock '.[sftp,s3,kubernetes]' \
    && find /opt/ulos-stream -name '*.so' -exec strip --strip-unneeded {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -x /_shipped/ /opt/ulos-stream/lib

FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && install --directory --owner 65532 --group 65532 /work
COPY --from=build /opt/ulos-stream /opt/ulos-stream
ARG VERSION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title=ulos-stream \
    org.opencontainers.image.description="A processing node for multistage tasks: RabbitMQ in, files through executors, RabbitMQ out" \
    org.opencontainers.image.version=${VERSION} \
    org.opencontainers.image.source=${SOURCE} \
    org.opencontainers.image.licenses=Apache-2.0
# Whoever wants to see health and metrics is outside the container.
ENV PATH=/opt/ulos-stream/bin:${PATH} HOME=/work ULOS_WORK_DIR=/work ULOS_HTTP_HOST=0.0.0.0 ULOS_HTTP_PORT=8080
VOLUME /work
WORKDIR /work
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=10s --interval=10s --timeout=5s \
    CMD ["python3", "-c", "import os; from urllib.request import urlopen; urlopen(f'http://127.0.0.1:{os.environ[\"ULOS_HTTP_PORT\"]}/health/live')"]
EXPOSE 8080
CMD ["faststream", "run", "ulos_stream.app:app"]
