//! Images and other media in a request.

/// How closely the client wants an image looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Detail {
    /// The model decides.
    #[default]
    Auto,
    /// One small overview.
    Low,
    /// As many tiles as the image fills.
    High,
}

/// What kind of medium it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Media {
    /// One still image.
    #[default]
    Image,
    /// A video.
    Video,
    /// A document (PDF and the like).
    Document,
}

/// One image, video or document of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Image {
    /// What it is.
    pub media: Media,
    /// Width and height in pixels, where an inline header tells them.
    pub size: Option<(u32, u32)>,
    /// The `detail` asked for.
    pub detail: Detail,
    /// Bytes of inline data, 0 for a remote URL.
    pub bytes: u64,
}
