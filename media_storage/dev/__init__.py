"""What `media-storage dev` runs beside the service: an embedded store, and a stand-in chat backend with a page."""
