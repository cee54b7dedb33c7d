# MLflow's server, of the version that the workbench is pinned to, with a driver for PostgreSQL.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock /src/
RUN pip install --constraint /src/requirements.lock mlflow "psycopg[binary]==3.3.9"

RUN useradd --uid 10001 --create-home mlflow \
    && install --directory --owner mlflow /artifacts
USER 10001
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--workers", "2", \
    "--backend-store-uri", "postgresql://mlflow@postgres/mlflow", "--artifacts-destination", "/artifacts"]
