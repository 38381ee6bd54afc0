"""The metric uploader: sends the metrics of runs to receivers elsewhere. One process an upload."""
