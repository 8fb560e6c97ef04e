"""Sessions of client programs, and what lives as long as they do: sampling sessions, records of samples, traces."""
