"""Every method as a short composition on the one engine; the keyword-only signature is its configuration."""
