"""Building the stand-in install medium on a Debian 12 host."""
