"""The small server: health and queue, in each worker and alone."""
