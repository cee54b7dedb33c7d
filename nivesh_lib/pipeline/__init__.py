"""The notebooks as a cached, parallel pipeline."""
