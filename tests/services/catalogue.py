"""All services, by name."""

from __future__ import annotations

from tests.services.kafka import KAFKA
from tests.services.postgres import POSTGRES
from tests.services.process import Service
from tests.services.redis import REDIS
from tests.services.timescale import TIMESCALE

SERVICES: dict[str, Service] = {
    service.name: service for service in (KAFKA, POSTGRES, TIMESCALE, REDIS)
}
