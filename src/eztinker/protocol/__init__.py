"""What travels between processes: the Tinker wire (protobuf and JSON) and the frames to the engine."""
