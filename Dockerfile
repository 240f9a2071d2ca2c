# The production image: no embedded servers, no compiler, no root. Chains file, keys and passwords are mounted.
FROM python:3.11-slim AS build
WORKDIR /build
COPY requirements.production.lock ./
RUN python -m venv /opt/fleet \
    && /opt/fleet/bin/pip install --no-cache-dir --require-hashes -r requirements.production.lock
COPY pyproject.toml README.md LICENSE ./
COPY contracts contracts
COPY custody custody
COPY schedules schedules
COPY tasks tasks
COPY workers workers
RUN /opt/fleet/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin fleet \
    && install -d -o fleet -m 0700 /var/lib/keys
COPY --from=build /opt/fleet /opt/fleet
ENV PATH=/opt/fleet/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FLEET_STATE_DIR=/run/fleet
USER fleet
WORKDIR /home/fleet
CMD ["fleet", "--help"]
