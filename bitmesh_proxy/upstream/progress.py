"""What has happened to one call so far, kept in one place so that every way out can settle it exactly once."""

from __future__ import annotations

import msgspec

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import StreamMeter
from bitmesh_proxy.dialects.sse import EVENT_END


class Progress(msgspec.Struct, kw_only=True):
    """Mutable on purpose, and seen by one call only.

    ``sent``: a request is going to a provider, so that it may bill us whatever comes of it. ``first_byte_s`` is of the
    monotonic clock. ``meter`` looks at a passing stream; ``usage`` is what the provider said in a whole answer.
    ``delivered``: bytes of the answer have gone to the caller. ``is_event_stream``: they are events, so that an error
    can be said among them.
    """

    offer: Offer | None = None
    sent: bool = False
    first_byte_s: float | None = None
    meter: StreamMeter | None = None
    usage: Usage | None = None
    output_characters: int = 0
    provider_request_id: str | None = None
    delivered: bool = False
    is_event_stream: bool = True

    def begin(self, offer: Offer) -> None:
        """A new attempt: what an earlier one saw does not count any more."""
        self.offer = offer
        self.sent = False
        self.meter = None
        self.usage = None
        self.output_characters = 0
        self.provider_request_id = None

    def note_sent(self) -> None:
        """The provider may be at work from now on."""
        self.sent = True

    @property
    def reported_usage(self) -> Usage | None:
        """The provider's own figures, from the whole answer or the stream."""
        if self.usage is not None:
            return self.usage
        return self.meter.usage if self.meter is not None else None

    @property
    def characters(self) -> int:
        """How many characters of text reached the caller."""
        return self.meter.output_characters if self.meter is not None else self.output_characters

    def behind(self, tail: bytes) -> bytes:
        """Events or comments of ours, as they have to be written behind what has passed of the provider's stream: that
        may end within an event, be it that it broke off there or that its server leaves out the last blank line."""
        return EVENT_END + tail if tail and self.meter is not None and self.meter.is_in_event else tail

    @property
    def request_id(self) -> str | None:
        """The provider's own id of the call."""
        if self.provider_request_id is not None:
            return self.provider_request_id
        return self.meter.provider_request_id if self.meter is not None else None
