"""Configuration: TOML in, a validated `Config` or every diagnostic at once out."""
