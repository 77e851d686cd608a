# The stand-in LM provider of the demo and the tests.
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
ENV UV_SYSTEM_CERTS=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/venv
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir "uv<1"
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv /opt/uv/bin/uv sync --quiet --frozen --only-group standin

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
COPY dev/standin /opt/app/dev/standin
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/app PYTHONUNBUFFERED=1
USER 65532:65532
CMD ["python", "-m", "dev.standin", "serve"]
