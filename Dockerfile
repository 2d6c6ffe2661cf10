# hitl-stream: one image for every role; `docker run … run router` starts one.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/hitl && /opt/hitl/bin/pip install --no-cache-dir '.[console,postgres,sentiment]'

FROM python:3.11-slim-bookworm
# State and keys belong to the one user that runs; the image itself is read-only for it.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/hitl --shell /usr/sbin/nologin hitl \
    && install -d -o hitl -g hitl -m 0700 /var/lib/hitl/state /var/lib/hitl/state/keys
COPY --from=build /opt/hitl /opt/hitl
ENV PATH=/opt/hitl/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HITL_STATE_DIR=/var/lib/hitl/state
USER hitl
WORKDIR /var/lib/hitl
VOLUME /var/lib/hitl/state
EXPOSE 9464 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=5 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/livez', timeout=2)"]
ENTRYPOINT ["hitl"]
CMD ["--help"]
