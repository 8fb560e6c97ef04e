"""What the server asks of its clients before they do anything."""

from __future__ import annotations

import httpx
import pytest
import tinker
from tinker.types import ClientConfigResponse, ClientDynamicConfigResponse

from tests.servers import API_KEY, RunningServer
from tests.wire import post

COUNTED_ON = {
    "pjwt_auth_enabled": True,  # a client can ask whose key it has
    "parallel_fwdbwd_chunks": True,  # chunks may come in any order
    "proto_compress_fwdbwd": False,  # packing costs more than a local network
    "sample_use_retrieve_futures": True,  # one poll for all samples of a client
    "sample_join_sampling_session": True,  # copies of a client do not collide
    "custom_loss_server_side": False,  # custom losses run in the client
}


@pytest.mark.conforms(4, "server-side custom losses")
def test_every_flag_the_server_counts_on_is_said_and_understood(server: RunningServer, http: httpx.Client):
    said = post(http, "/client/config", sdk_version="0.38.0")
    assert said == COUNTED_ON
    assert said.keys() <= ClientConfigResponse.model_fields.keys()
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as client:
        understood = client.holder.get_client_config().model_dump()
    assert {name: understood[name] for name in said} == COUNTED_ON


@pytest.mark.conforms(5)
def test_the_flags_that_may_change_are_all_said_with_their_defaults(http: httpx.Client):
    said = post(http, "/client/dynamic_config")
    assert said.keys() == ClientDynamicConfigResponse.model_fields.keys()
    defaults = ClientDynamicConfigResponse().model_dump()
    assert said == defaults | {"sample_cancel_enabled": True}
