"""One convolution as several smaller ones: `decompose`, one method per file, and the certificate of their error."""
