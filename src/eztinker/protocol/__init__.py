"""Formats of what travels between processes: the Tinker wire (protobuf and JSON) and the frames to the engine."""
