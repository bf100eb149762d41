"""Write reports with pictures and tables."""
