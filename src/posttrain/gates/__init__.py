"""Gates: what a stage must keep and improve, decided from recorded items alone."""
