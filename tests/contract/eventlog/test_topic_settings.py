"""Rules 4 and 6 on Kafka are kept by its brokers: the topics' settings, as the brokers give them."""

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from serving.eventlog import LogSettings, Topic, init_log
from tests.harness.eventlog import kafka_admin

HOUR_MS = 3_600_000
EXPECTED = {
    Topic.COLLECTIONS: {"cleanup.policy": "compact", "min.compaction.lag.ms": "0"},
    Topic.DOCUMENTS: {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(7 * 24 * HOUR_MS),
        "message.timestamp.type": "CreateTime",
        "message.timestamp.before.max.ms": "5000",
        "message.timestamp.after.max.ms": "5000",
    },
    Topic.INDEX: {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(HOUR_MS),
        "message.timestamp.type": "LogAppendTime",
    },
    Topic.DEADLETTERS: {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"},
}


@pytest.mark.kafka
@pytest.mark.parametrize("topic", list(Topic))
async def test_a_topic_has_the_settings_that_the_rules_rest_on(kafka_settings: LogSettings, topic: Topic) -> None:
    await init_log(kafka_settings)
    async with kafka_admin(kafka_settings) as admin:
        name = f"{kafka_settings.topic_prefix}{topic}"
        (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    found = {entry[0]: entry[1] for entry in response.resources[0][4]}
    assert {key: found[key] for key in EXPECTED[topic]} == EXPECTED[topic]
