"""`python -m services.gateway`: the front door."""

from headwater.gateway.v1 import gateway_pb2_grpc

from serving.eventlog import open_log
from serving.eventlog.catalog import Catalog
from serving.server import Registration, run, serve

from .authentication import open_authenticator
from .settings import Settings
from .wiring import open_gateway


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    authenticator = open_authenticator(settings.gateway, settings.server.host)
    async with (
        open_log(settings.log) as log,
        Catalog(log) as catalog,
        open_gateway(settings.gateway, authenticator, log, catalog) as servicer,
    ):
        await serve(
            "gateway",
            settings.server,
            Registration(
                gateway_pb2_grpc.add_GatewayServiceServicer_to_server,
                servicer,
                "headwater.gateway.v1.GatewayService",
            ),
            watch=(catalog.task,),
        )


if __name__ == "__main__":
    run("gateway", Settings, main)
