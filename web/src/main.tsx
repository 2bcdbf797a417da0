import { render } from "preact";
import { Workbench } from "./app";
import "./styles/fonts.css";
import "./styles/base.css";
import "./styles/page.css";
import "./styles/turns.css";
import "./styles/viewer.css";
import "./styles/print.css";

const root = document.getElementById("app");
if (root !== null) render(<Workbench />, root);
