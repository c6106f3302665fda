"""What Sojourn keeps on disk, under ``$SOJOURN_HOME``."""
