"""What the codecs raise.

Room:      fabric_protos   (imports nothing)
Loop:      none
Lifetime:  none
"""


class DecodeError(ValueError):
    """The bytes are not a valid message of the class they were read as."""


class EncodeError(ValueError):
    """A field holds what its protobuf type cannot carry; the text names class and field."""
