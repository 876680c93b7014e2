"""The tabs of the page. A panel reads widgets, asks the service, and hands frozen results to the viewers."""
