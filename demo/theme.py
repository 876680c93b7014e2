"""Colours and type of Gradio's own widgets; the page's custom parts take theirs from ``static/page.css``.

One accent, a vermilion, marks *now*: the current frame, its camera, the playhead, and what has the focus. All else is
ink on paper, or the reverse in the dark.
"""

from gradio.themes import Base, Color, LocalFont, colors, sizes

ACCENT = Color(
    name="vermilion",
    c50="#fff3ef",
    c100="#ffe4db",
    c200="#ffc7b6",
    c300="#ffa387",
    c400="#ff7d58",
    c500="#ff5a36",
    c600="#e8441f",
    c700="#c23414",
    c800="#9a2b14",
    c900="#7c2615",
    c950="#431007",
)

_COMPLETE_WEIGHTS = (400, 700)
"""Gradio ships the other weights of IBM Plex with a few glyphs only."""

_INK, _PAPER = "#17181c", "#ffffff"
_DARK_PAGE, _DARK_CARD, _DARK_LINE = "#0e0f12", "#16181d", "#2a2d35"


def build_theme() -> Base:
    """The theme, with fonts that Gradio ships, so the page needs no network."""
    theme = Base(
        primary_hue=ACCENT,
        secondary_hue=colors.zinc,
        neutral_hue=colors.zinc,
        radius_size=sizes.radius_md,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
        font=[
            LocalFont("IBM Plex Sans", weights=_COMPLETE_WEIGHTS),
            "ui-sans-serif",
            "system-ui",
            "sans-serif",
        ],
        font_mono=[LocalFont("IBM Plex Mono", weights=_COMPLETE_WEIGHTS), "ui-monospace", "monospace"],
    )
    return theme.set(
        body_background_fill="#fafafa",
        body_background_fill_dark=_DARK_PAGE,
        body_text_color=_INK,
        body_text_color_dark="#e9eaee",
        background_fill_primary=_PAPER,
        background_fill_primary_dark=_DARK_CARD,
        background_fill_secondary="#f4f4f5",
        background_fill_secondary_dark="#121317",
        border_color_primary="#e3e4e8",
        border_color_primary_dark=_DARK_LINE,
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_padding="0px",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_title_text_color="*body_text_color",
        block_info_text_color="#6b7280",
        block_info_text_color_dark="#9aa1ad",
        input_background_fill=_PAPER,
        input_background_fill_dark="#121317",
        input_border_width="1px",
        input_border_color="#d9dbe1",
        input_border_color_dark=_DARK_LINE,
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_500",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px color-mix(in srgb, #ff5a36 18%, transparent)",
        input_shadow_focus_dark="0 0 0 3px color-mix(in srgb, #ff5a36 26%, transparent)",
        slider_color="*primary_500",
        button_large_text_weight="600",
        button_primary_background_fill=_INK,
        button_primary_background_fill_hover="#33353d",
        button_primary_text_color="#ffffff",
        button_primary_background_fill_dark="#f2f3f5",
        button_primary_background_fill_hover_dark="#ffffff",
        button_primary_text_color_dark=_INK,
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_secondary_background_fill=_PAPER,
        button_secondary_background_fill_dark="#1c1f26",
        button_secondary_background_fill_hover="#f4f4f5",
        button_secondary_background_fill_hover_dark="#252932",
        button_secondary_border_color="#d9dbe1",
        button_secondary_border_color_dark=_DARK_LINE,
        button_border_width="1px",
        layout_gap="16px",
        form_gap_width="0px",
    )
